"""Stop signals as a question that the loop asks between steps and while it waits, so that nothing stops half-way."""

import signal
from types import FrameType, TracebackType
from typing import Any

from convnext_imagenet.records.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # batch systems announce the end of a job by SIGUSR1


class StopSignals:
    """While entered, remembers a stop signal instead of dying from it; `check` then raises Interrupted."""

    def __init__(self) -> None:
        self._received = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted when a stop signal has come."""
        if self._received:
            raise Interrupted("stopped by a signal; the same command goes on from the checkpoint that was saved")

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._received = True  # which one is not told: MindSpore passes Ctrl-C on as SIGTERM
