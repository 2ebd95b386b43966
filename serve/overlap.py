"""The two halves of every job here: threads that make pixels, and a network that sees batches of one fixed size.

Results come in the order of the items for any number of threads. The network compiles once, because a short
batch is padded with black pictures whose logits nobody reads.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from convnext_imagenet.serve.engine import Engine, network_engine

Item = TypeVar("Item")
Result = TypeVar("Result")
_POLL_SECONDS = 0.2
_END_SECONDS = 5.0


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    limit_s: float = 0.0,
    on_limit: Callable[[Item], Result] | None = None,
) -> Generator[Result, None, None]:
    """Yield `function(item)` in the order of the items, computed by threads up to `ahead` items in advance.

    At most `ahead` results wait in memory. An exception of `function` is raised at its place in the order. With
    `on_limit`, a call that lasts over `limit_s` seconds is left to itself and `on_limit(item)` takes its place; a
    thread that hangs in it is replaced, and ends with the process.
    """
    remaining, threads = iter(items), _Threads(function, workers)
    waiting: deque[_Task[Item, Result]] = deque()
    try:
        waiting.extend(threads.start(item) for item in islice(remaining, ahead))
        while waiting:
            task = waiting.popleft()
            result = threads.result(task, limit_s, on_limit)
            waiting.extend(threads.start(item) for item in islice(remaining, 1))
            yield result
    finally:
        threads.end()


class _Task(Generic[Item, Result]):
    """A call of the function: when it began, whether it is over, and what came of it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.begun: float | None = None
        self.is_over = threading.Event()
        self.is_left = False
        self.result: Any = None
        self.error: BaseException | None = None


class _Threads:
    """Daemon threads that take tasks from one queue, so that one that hangs keeps no process from ending."""

    def __init__(self, function: Callable[[Any], Any], workers: int) -> None:
        self._function = function
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_ending = False
        for _ in range(workers):
            self._add()

    def start(self, item: Any) -> _Task:
        task: _Task = _Task(item)
        self._tasks.put(task)
        return task

    def result(self, task: _Task, limit_s: float, on_limit: Callable[[Any], Any] | None) -> Any:
        while not task.is_over.wait(_POLL_SECONDS):
            if on_limit and task.begun is not None and time.monotonic() - task.begun > limit_s:
                task.is_left = True
                self._add()
                return on_limit(task.item)
        if task.error is not None:
            raise task.error
        return task.result

    def end(self) -> None:
        """Let every thread finish its call and leave; those that hang are not waited for long."""
        self._is_ending = True
        for _ in self._threads:
            self._tasks.put(None)
        patience = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, patience - time.monotonic()))

    def _add(self) -> None:
        thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._is_ending:
            task.begun = time.monotonic()
            try:
                task.result = self._function(task.item)
            except BaseException as error:  # handed over to the caller's thread
                task.error = error
            task.is_over.set()
            if task.is_left:
                return


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter when they do not divide."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def padded_logits(
    classifier: Any, pixels: Sequence[np.ndarray | None], batch_size: int, flip: bool = False
) -> np.ndarray:
    """The logits (n, K) of n <= batch_size pictures, float32: the first of `network_outputs` of a MindSpore network."""
    return network_outputs(network_engine(classifier), pixels, batch_size, flip)[0]


def network_outputs(
    engine: Engine, pixels: Sequence[np.ndarray | None], batch_size: int, flip: bool = False
) -> list[np.ndarray]:
    """What an engine that always sees `batch_size` pictures gives for n <= batch_size of them: logits (n, K), or more.

    With `flip`, the mean over the pictures and their mirror images.

    A picture keeps its place in the batch and None leaves its place black, because the place moves the last bits
    of a logit: so an unreadable picture changes nothing for its neighbours. One picture at least must be there.
    """
    if flip:
        mirrored = [None if picture is None else picture[:, ::-1] for picture in pixels]
        both = (network_outputs(engine, each, batch_size) for each in (pixels, mirrored))
        return [(one + other) / 2 for one, other in zip(*both, strict=True)]
    shape = next(picture.shape for picture in pixels if picture is not None)
    batch_NHWC = np.zeros((batch_size, *shape), dtype=np.uint8)
    for place, picture in enumerate(pixels):
        if picture is not None:
            batch_NHWC[place] = picture
    return [output_NK[: len(pixels)] for output_NK in engine(batch_NHWC)]
