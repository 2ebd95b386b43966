"""Threads that work ahead of a consumer, in stages: results in the order of the items, each call with a time limit.

Reading waits for a disk or a network, decoding for a core, so each stage has a number of threads of its own. They are
our own daemon threads, because the interpreter waits for the threads of a pool when it ends: one hanging image would
keep a finished job from ending (DECISIONS, 2026-11-26). This file knows nothing of images.
"""

import contextlib
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")
_FIRST_GUESS_BYTES = 16 << 20  # of a result, before one is known
_POLL_SECONDS = 0.2  # how often a waiting consumer looks at time limits and stop signals
_THREADS = "decode"  # how their names begin
_END_SECONDS = 5.0  # then the process may end: threads that still hang are daemons and end with it


@dataclass(frozen=True)
class Stage:
    """One step of the work on every item, done by `width` threads; its result is the item of the next stage.

    With `on_limit`, a call of more than `limit_s` seconds is abandoned and `on_limit(item)` is its result. A new thread
    replaces the one that hangs in it, which ends with the process. `pause_before_retry` gets a result, the number of
    calls for this item and the seconds since the first; it returns the pause before the next call, or None to keep the
    result. `bytes_of` returns the memory that a result takes until the next stage is done with it.
    """

    name: str
    function: Callable[[Any], Any]
    width: int
    limit_s: float = 0.0
    on_limit: Callable[[Any], Any] | None = None
    pause_before_retry: Callable[[Any, int, float], float | None] = lambda result, calls, seconds: None
    bytes_of: Callable[[Any], int] = lambda result: 0


class Waits:
    """The seconds that the consumer has waited for each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @property
    def slowest(self) -> str:
        """Return the name with the most seconds; of none, an empty string."""
        return max(self.seconds, key=self.seconds.__getitem__, default="")


def has_hanging_calls() -> bool:
    """Return whether threads of this file still hang in calls, after some seconds for them to end."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith(_THREADS)]
    _join_all(threads)
    return any(thread.is_alive() for thread in threads)


class Stopped(Exception):
    """The consumer was told to stop while it waited for a result."""


def map_ahead(
    function: Callable[[Any], Result],
    items: Iterable[Any],
    workers: int,
    ahead: int,
    limit_s: float = 0.0,
    on_limit: Callable[[Any], Result] | None = None,
) -> Generator[Result, None, None]:
    """Yield `function(item)` in the order of the items, computed by threads up to `ahead` items in advance.

    At most `ahead` results wait in memory. An exception of `function` is raised when its item's turn comes. For
    `limit_s` and `on_limit` see `Stage`.
    """
    return run_ahead([Stage("decode", function, workers, limit_s, on_limit)], items, ahead)


def run_ahead(
    stages: Sequence[Stage],
    items: Iterable[Any],
    ahead: int,
    most_bytes: int = 1 << 62,
    is_stopped: Callable[[], bool] = lambda: False,
    waits: Waits | None = None,
) -> Generator[Any, None, None]:
    """Yield what the stages make of each item, in the order of the items; up to `ahead` items are under way.

    The items are taken by a thread of their own. A stage starts no call while results between the stages take
    `most_bytes` or more. Raises Stopped within a moment when `is_stopped` says so, and what an item, a stage or a
    stand-in raises, when its turn comes.
    """
    line = _Line(stages, items, ahead, most_bytes)
    try:
        while (call := line.next_call(is_stopped)) is not None:
            yield line.result(call, is_stopped, waits or Waits())
            line.has_room.release()
            del call
    finally:
        line.end()


class _Call:
    """One item on its way: the stage that it is in, when the present call began, and the outcome."""

    def __init__(self, value: Any) -> None:
        self.value = value  # the item of the present stage; of a call that is done, the result
        self.stage = 0
        self.begun: float | None = None
        self.is_done = threading.Event()
        self.error: BaseException | None = None
        self.bytes_held = 0
        self.lock = threading.Lock()  # around the end of a stage: the result, or the limit, comes first


class _Bytes:
    """Counts the bytes that results take, and lets a thread wait until there is room for one more.

    What a call under way will take is not known: it counts as the largest result so far.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held, self._running, self._changed = most, 0, 0, threading.Condition()
        self._largest, self._is_any_known = _FIRST_GUESS_BYTES, False
        self._is_open = False

    def begin_call(self) -> None:
        """Wait for room."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or self._has_room())
            self._running += 1

    def end_call(self, result_bytes: int) -> None:
        """Count the result of a call."""
        with self._changed:
            self._running -= 1
            self._held += result_bytes
            self._largest = max(self._largest, result_bytes) if self._is_any_known else result_bytes
            self._is_any_known = True
            self._changed.notify_all()

    def release(self, count: int) -> None:
        """Give the bytes of a result back."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()

    def open(self) -> None:
        """Let every thread pass from now on."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """Return whether another result fits; the only call is let through as long as there is any room."""
        expected = self._held + (self._running + 1) * self._largest
        return expected <= self._most or (not self._running and self._held < self._most)


class _Line:
    """The threads of all stages, and their calls; one that hangs does not keep the process from ending."""

    def __init__(self, stages: Sequence[Stage], items: Iterable[Any], ahead: int, most_bytes: int) -> None:
        self._stages = stages
        self._queues: list[queue.SimpleQueue[_Call | None]] = [queue.SimpleQueue() for _ in stages]
        self._threads: list[threading.Thread] = []
        self._ending = threading.Event()
        self._bytes = _Bytes(most_bytes)
        self._in_order: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()  # None comes after the last
        self.has_room = threading.Semaphore(ahead)
        self._start(self._feed, f"{_THREADS}-feed", items)
        for number, stage in enumerate(stages):
            for _ in range(stage.width):
                self._add(number)

    def next_call(self, is_stopped: Callable[[], bool]) -> _Call | None:
        """Return the next call in the order of the items, or None after the last."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._in_order.get(timeout=_POLL_SECONDS)
            _check(is_stopped)

    def result(self, call: _Call, is_stopped: Callable[[], bool], waits: Waits) -> Any:
        while not call.is_done.is_set():
            stage, began = self._stages[min(call.stage, len(self._stages) - 1)], time.monotonic()
            call.is_done.wait(_POLL_SECONDS)
            waits.seconds[stage.name] += time.monotonic() - began
            _check(is_stopped)
            self._enforce_limit(call)
        if call.error is not None:
            raise call.error
        return call.value

    def end(self) -> None:
        """Let every thread finish its call and end; wait at most _END_SECONDS for all of them together."""
        self._ending.set()
        self._bytes.open()
        self.has_room.release()
        for number, stage in enumerate(self._stages):
            for _ in range(stage.width):
                self._queues[number].put(None)
        _join_all(self._threads)

    def _start(self, function: Callable[..., None], name: str, *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _add(self, number: int) -> None:
        self._start(self._work, f"{_THREADS}-{self._stages[number].name}", number)

    def _feed(self, items: Iterable[Any]) -> None:
        """Put the items into the first stage; what they raise becomes the last call."""
        try:
            for item in self._with_room(items):
                call = _Call(item)
                self._in_order.put(call)
                self._queues[0].put(call)
        except BaseException as error:  # handed over to the consumer's thread
            call = _Call(None)
            call.error = error
            call.is_done.set()
            self._in_order.put(call)
        self._in_order.put(None)

    def _with_room(self, items: Iterable[Any]) -> Generator[Any, None, None]:
        """Yield the items, each taken only when there is room for it, until the end is asked for."""
        remaining = iter(items)
        try:
            while True:
                self.has_room.acquire()
                if self._ending.is_set():
                    return
                try:
                    item = next(remaining)
                except StopIteration:
                    return
                yield item
        finally:
            with contextlib.suppress(AttributeError):  # not every iterator can be closed
                remaining.close()  # type: ignore[attr-defined]

    def _work(self, number: int) -> None:
        is_last = number + 1 == len(self._stages)
        while (call := self._queues[number].get()) is not None and not self._ending.is_set():
            if not is_last:
                self._bytes.begin_call()
            try:
                result, error = self._attempts(number, call), None
            except BaseException as raised:  # handed over to the consumer's thread
                result, error = None, raised
            is_wanted = self._finish(number, call, result, error)
            if not is_last:
                self._bytes.end_call(call.bytes_held if is_wanted else 0)
            if not is_wanted:
                return  # the consumer has replaced this thread
            self._pass_on(number, call)
            del call, result

    def _attempts(self, number: int, call: _Call) -> Any:
        stage, first = self._stages[number], time.monotonic()
        calls, item = 0, call.value
        while True:
            call.begun = time.monotonic()
            result, calls = stage.function(item), calls + 1
            pause = stage.pause_before_retry(result, calls, time.monotonic() - first)
            if pause is None or call.stage != number:
                return result
            call.begun = None  # the limit holds for one call, and not for the pauses
            if self._ending.wait(pause):
                return result

    def _finish(self, number: int, call: _Call, result: Any, error: BaseException | None) -> bool:
        """Give a call the result of a stage; return False when the limit came first and the result is not wanted."""
        with call.lock:
            if call.stage != number:
                return False
            call.stage, call.begun = number + 1, None
            self._bytes.release(call.bytes_held)
            call.value, call.error = result, error
            call.bytes_held = 0 if error else self._stages[number].bytes_of(result)
        return True

    def _pass_on(self, number: int, call: _Call) -> None:
        """Put a call into the next stage, or end it."""
        if call.error is not None or number + 1 == len(self._stages):
            call.is_done.set()
        else:
            self._queues[number + 1].put(call)

    def _enforce_limit(self, call: _Call) -> None:
        """Abandon a call that has lasted too long: its stand-in goes on, and another thread takes its turn."""
        number = call.stage
        if number >= len(self._stages):
            return
        stage, begun = self._stages[number], call.begun
        if stage.on_limit is None or begun is None or time.monotonic() - begun <= stage.limit_s:
            return
        if self._finish(number, call, stage.on_limit(call.value), None):
            call.bytes_held = 0  # it was never counted: the thread of the call counts nothing
            self._pass_on(number, call)
            self._add(number)


def _join_all(threads: Sequence[threading.Thread]) -> None:
    """Wait for the threads, at most _END_SECONDS for all of them together."""
    deadline = time.monotonic() + _END_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _check(is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise Stopped


def call_apart(function: Callable[[], Result], is_stopped: Callable[[], bool]) -> Result:
    """Return `function()`, called in a thread of its own, so that a library that waits for a network can be left.

    Raises Stopped within a moment when `is_stopped` says so; the thread then ends with the process.
    """
    results = run_ahead([Stage("apart", lambda call: call(), 1)], [function], 1, is_stopped=is_stopped)
    with contextlib.closing(results):
        return next(results)
