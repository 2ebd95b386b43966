"""What a stop signal does to work that must not be left half-done. Four answers, from patient to immediate:

| answer | for work that |
|---|---|
| `StopSignals` | asks at clean places of its own (a training step, a scored batch) whether it should stop |
| `postponed` | must not be interrupted at all for a while: the signal comes after it (calls into Ray) |
| `blocked` | starts processes that must never see the signals which a terminal sends to its whole group |
| `interruptible` | can be dropped anywhere, because a unit counts only once its receipt is there (ingest) |
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from convnext_imagenet.base.errors import Interrupted

# SIGUSR1: batch systems announce the end of a job by it.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """While entered, counts stop signals instead of dying from them; `advice` tells how to resume.

    With `second_ends`, a second signal ends the process where it stands. MindSpore turns Ctrl-C into SIGTERM, hence one
    answer to all. `more` are further signals to answer in the same way.
    """

    def __init__(self, advice: str, second_ends: bool = False, more: tuple[signal.Signals, ...] = ()) -> None:
        self.count = 0
        self._advice, self._second_ends, self._signals = advice, second_ends, (*STOP_SIGNALS, *more)
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def received(self) -> bool:
        """True once a stop signal has come."""
        return self.count > 0

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._remember) for number in self._signals}
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted when a stop signal has come."""
        if self.received:
            raise self.interruption()

    def interruption(self) -> Interrupted:
        """Return the error that tells the user how to resume."""
        return Interrupted(f"stopped by a signal; {self._advice}")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self._second_ends:
            for other in self._signals:
                signal.signal(other, signal.SIG_DFL)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first stop signal into Interrupted; later ones are ignored while the work is put away."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in STOP_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted("interrupted; what is finished is kept, run the same command again to resume")

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def postponed() -> Iterator[Callable[[], bool]]:
    """Keep stop signals until the end of the block, then give the last to the handlers of before; yields whether one
    has come.

    Around all calls into Ray: what a handler raises inside of them comes out as a SystemError. Ray also puts handlers
    of its own in the place of ours.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[-1])


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Let processes that start in the block inherit blocked stop signals, and never see them."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
