"""Threads that work ahead of a consumer: results in the order of the items, each call with a time limit.

Our own daemon threads, because the interpreter waits for the threads of a pool when it ends: one hanging image would
keep a finished job from ending (DECISIONS, 2026-11-26). This file knows nothing of images.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_POLL_SECONDS = 0.2  # how often a waiting consumer looks at the time limit
_END_SECONDS = 5.0  # then the process may end: threads that still hang are daemons and end with it


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    limit_s: float = 0.0,
    on_limit: Callable[[Item], Result] | None = None,
) -> Generator[Result, None, None]:
    """Yield `function(item)` in the order of the items, computed by threads up to `ahead` items in advance.

    At most `ahead` results wait in memory. An exception of `function` is raised when its item's turn comes. With
    `on_limit`, a call of more than `limit_s` seconds is abandoned and yields `on_limit(item)` instead. A new thread
    replaces the one that hangs in it, which ends with the process.
    """
    remaining, threads = iter(items), _Threads(function, workers)
    started: deque[_Call[Item, Result]] = deque()
    try:
        started.extend(threads.start(item) for item in islice(remaining, ahead))
        while started:
            result = threads.result(started.popleft(), limit_s, on_limit)
            started.extend(threads.start(item) for item in islice(remaining, 1))
            yield result
    finally:
        threads.end()


class _Call(Generic[Item, Result]):
    """A call of the function: when it began, whether it is done or abandoned, and its result or exception."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.begun: float | None = None
        self.is_done = threading.Event()
        self.is_given_up = False
        self.result: Any = None
        self.error: BaseException | None = None


class _Threads:
    """Daemon threads that take calls from one queue; a hanging one does not keep the process from ending."""

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        self._function = function
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_ending = False
        for _ in range(workers):
            self._add()

    def start(self, item: Any) -> _Call:
        call: _Call = _Call(item)
        self._calls.put(call)
        return call

    def result(self, call: _Call, limit_s: float, on_limit: Callable[[Any], Any] | None) -> Any:
        while not call.is_done.wait(_POLL_SECONDS):
            if on_limit and call.begun is not None and time.monotonic() - call.begun > limit_s:
                call.is_given_up = True
                self._add()
                return on_limit(call.item)
        if call.error is not None:
            raise call.error
        return call.result

    def end(self) -> None:
        """Let every thread finish its call and end; wait at most _END_SECONDS for all of them together."""
        self._is_ending = True
        for _ in self._threads:
            self._calls.put(None)
        deadline = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _add(self) -> None:
        thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None and not self._is_ending:
            call.begun = time.monotonic()
            try:
                call.result = self._function(call.item)
            except BaseException as error:  # handed over to the caller's thread
                call.error = error
            call.is_done.set()
            if call.is_given_up:
                return  # the consumer has replaced this thread
