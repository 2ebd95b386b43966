"""Ctrl-C and SIGTERM as a question that a job asks between two batches, so that it ends at a clean place."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from convnext_imagenet.records.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signal(advice: str) -> Iterator[Callable[[], None]]:
    """Yield a function that raises Interrupted once SIGINT or SIGTERM has come; a second signal ends the process.

    `advice` tells how to go on. MindSpore turns Ctrl-C into SIGTERM, hence one answer to both.
    """
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def check() -> None:
        if received:
            raise Interrupted(f"interrupted; {advice}")

    previous = {number: signal.signal(number, remember) for number in _SIGNALS}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
