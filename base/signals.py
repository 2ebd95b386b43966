"""How work reacts to stop signals without being left half-done. Five ways, from patient to immediate:

| way | for work that |
|---|---|
| `StopSignals` | asks between its own steps (a training step, a scored batch) whether it should stop |
| `postponed` | must not be interrupted for a while: the signal is delivered afterwards (calls into Ray) |
| `blocked` | starts processes that must not get the signals that a terminal sends to its whole group |
| `answered_by_thread` | runs C++ code for minutes of which nothing has to be saved (compiling a step) |
| `interruptible` | can stop anywhere, because a unit counts only once it has a receipt (ingest) |
"""

import contextlib
import ctypes
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from convnext_imagenet.base.errors import Interrupted

# Batch systems send SIGUSR1 some time before they kill a job.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_END = 0  # no signal has this number
_POLL_S = 0.2  # Python resumes a sleep that a signal has interrupted


class StopSignals:
    """A context that counts stop signals instead of dying from them; `advice` tells how to resume.

    With `second_ends`, a second signal ends the process at once, even while C++ code runs that never returns to Python:
    the kernel itself forgets the handler when it delivers the first one. MindSpore turns Ctrl-C into SIGTERM, so all
    signals are treated alike. `more` are further signals to treat in the same way.
    """

    def __init__(self, advice: str, second_ends: bool = False, more: tuple[signal.Signals, ...] = ()) -> None:
        self.count = 0
        self._advice, self._second_ends, self._signals = advice, second_ends, (*STOP_SIGNALS, *more)
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def received(self) -> bool:
        """Whether a stop signal has come."""
        return self.count > 0

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._remember) for number in self._signals}
        if self._second_ends:
            for number in self._signals:
                _reset_when_delivered(number)
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """Wait, and return True; return False at once when a stop signal has come."""
        end = time.monotonic() + seconds
        while not self.received and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_S))
        return not self.received

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


class _SigAction(ctypes.Structure):
    """struct sigaction of Linux' C libraries."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_SA_RESETHAND = 0x80000000


def _reset_when_delivered(number: signal.Signals) -> None:
    """Let the kernel restore the signal's default action when it delivers the signal to the handler that is set."""
    sigaction, action = ctypes.CDLL(None, use_errno=True).sigaction, _SigAction()
    if sigaction(int(number), None, ctypes.byref(action)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    action.flags = ctypes.c_int(action.flags | _SA_RESETHAND).value
    if sigaction(int(number), ctypes.byref(action), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextlib.contextmanager
def answered_by_thread(answer: Callable[[], None]) -> Iterator[None]:
    """Let a thread call `answer` when a stop signal comes while the block runs C++ code that does not return to Python.

    The handlers stay as they are, and run when the block returns; `answer` may end the process before. Use it on the
    main thread, around work of which nothing has to be saved.
    """
    received, sent = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    numbers = {int(number) for number in STOP_SIGNALS}

    def watch() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(received, selectors.EVENT_READ)
            while selector.select():
                told = set(os.read(received, 64))
                if told & numbers:
                    answer()
                if _END in told:
                    return

    thread = threading.Thread(target=watch, name="stop signals", daemon=True)
    previous = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        os.write(sent, bytes([_END]))
        thread.join()
        os.close(received)
        os.close(sent)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted at the first stop signal, wherever the block is; ignore later ones during the clean-up."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in STOP_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted("interrupted; finished work is kept; run the same command again to resume")

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def postponed() -> Iterator[Callable[[], bool]]:
    """Hold stop signals back until the end of the block, then raise the last for the earlier handlers.

    Yields a function that returns whether a signal has come. Needed around all calls into Ray: an exception that a
    handler raises inside of them comes out as SystemError, and Ray installs handlers of its own in place of ours.
    """
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        if before[number] is not signal.SIG_IGN:  # a parent that ignores a signal (nohup) wants it ignored
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
    """Block stop signals for processes that start in the block: they inherit the mask."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
