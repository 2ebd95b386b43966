"""Runs units of work in processes that can be stopped at any moment: no orphans, no lost progress, no tracebacks.

Killing a worker is safe because a unit of work counts only once it has a receipt. This file knows nothing of shards.
"""

import concurrent.futures
import ctypes
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.own_process import own_process
from convnext_imagenet.base.signals import blocked
from convnext_imagenet.ingest.errors import FailedIngestError
from convnext_imagenet.launch.executor import OnProgress

Task = TypeVar("Task")
_POLL_SECONDS = 0.2  # how often the progress bar moves
_WORKER_DIED = (
    "a worker process died (out of memory, or killed); finished shards are kept; "
    "run the same command again to resume, with a smaller --workers if memory is short"
)
_progress_of_unit: Any = None  # in a worker: counters in shared memory, which a spawned process gets only at its start


@dataclass(frozen=True)
class LocalPool:
    """An `Executor` that runs units in up to `workers` processes of this machine; each calls `start` first."""

    workers: int
    start: Callable[[], None] | None = None

    def run(
        self,
        function: Callable[[Any, OnProgress], None],
        tasks: Iterator[Any],
        count: int,
        on_progress: OnProgress,
        on_unit: Callable[[], None] = lambda: None,
    ) -> None:
        """Run `count` tasks, see `run_units`. Raises FailedIngestError when a worker dies."""
        run_units(function, tasks, count, self.workers, on_progress, on_unit, self.start)


def run_units(
    function: Callable[[Task, OnProgress], None],
    tasks: Iterator[Task],
    count: int,
    workers: int,
    on_progress: OnProgress,
    on_unit: Callable[[], None] = lambda: None,
    start: Callable[[], None] | None = None,
) -> None:
    """Call `function(task, on_progress)` for each of `count` tasks in up to `workers` fresh processes.

    Each process calls `start` first. Tasks are drawn as workers take them; `on_unit` is called after each. The first
    exception of a worker stops the others and is raised here. Raises FailedIngestError when a worker dies.
    """
    if not count:
        return
    context = multiprocessing.get_context("spawn")  # threads of OpenCV or MindSpore do not survive a fork
    done = context.RawArray(ctypes.c_int64, count)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, count), context, _start_worker, (done, start))
    try:
        _run(pool, function, enumerate(tasks), 2 * workers, _Meter(done, on_progress), on_unit)
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise FailedIngestError(_WORKER_DIED) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Meter:
    """Sums what the workers have done and reports the difference since the last report."""

    def __init__(self, done: Iterable[int], on_progress: OnProgress) -> None:
        self._done = done
        self._reported = 0
        self._on_progress = on_progress

    def report(self) -> None:
        total = sum(self._done)
        self._on_progress(total - self._reported)
        self._reported = total


def _run(
    pool: ProcessPoolExecutor,
    function: Callable[[Task, OnProgress], None],
    tasks: Iterator[tuple[int, Task]],
    most_waiting: int,
    meter: _Meter,
    on_unit: Callable[[], None],
) -> None:
    waiting: set[Future[None]] = set()
    while True:
        while len(waiting) < most_waiting and (item := next(tasks, None)) is not None:
            unit, task = item
            with blocked():  # `submit` starts processes: Ctrl-C must reach only this one, which then kills them
                waiting.add(pool.submit(_work, function, unit, task))
        if not waiting:
            return
        finished, waiting = concurrent.futures.wait(
            waiting, timeout=_POLL_SECONDS, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in finished:
            future.result()
            on_unit()
        meter.report()


def _start_worker(progress_of_unit: Any, start: Callable[[], None] | None) -> None:
    global _progress_of_unit
    own_process()
    _progress_of_unit = progress_of_unit
    os.environ.setdefault("GLOG_v", "3")  # MindSpore then prints errors only
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if start is not None:
        start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(Interrupted.exit_code)


def _work(function: Callable[[Task, OnProgress], None], unit: int, task: Task) -> None:
    def advance(count: int) -> None:
        _progress_of_unit[unit] += count

    function(task, advance)
