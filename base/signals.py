"""Stop signals as a question that a job asks at clean places and while it waits, so that nothing stops half-way."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from convnext_imagenet.base.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # batch systems announce the end of a job by SIGUSR1


class StopSignals:
    """While entered, remembers a stop signal instead of dying from it; `advice` tells how to go on.

    With `second_ends`, a second signal ends the process where it stands. MindSpore turns Ctrl-C into SIGTERM, hence one
    answer to all.
    """

    def __init__(self, advice: str, second_ends: bool = False) -> None:
        self.received = False
        self._advice, self._second_ends = advice, second_ends
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted when a stop signal has come."""
        if self.received:
            raise self.interruption()

    def interruption(self) -> Interrupted:
        """The error that tells the user how to go on."""
        return Interrupted(f"stopped by a signal; {self._advice}")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if self._second_ends:
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_DFL)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first SIGTERM or Ctrl-C into Interrupted; later ones are ignored while the work is put away."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted("interrupted; what is finished is kept, run the same command again to go on")

    previous = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[Callable[[], bool]]:
    """Remember stop signals until the end of the block, then give the last to the handlers of before; yields whether
    one has come.

    Around all calls into Ray: what a handler raises inside of them comes out as a SystemError. Ray also puts handlers
    of its own in the place of ours.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[-1])
