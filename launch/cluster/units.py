"""Runs units of work on the workers of a Ray cluster, and retries a unit on another worker if its worker died.

The driver holds plans and counts. The data of a unit passes only through the shared folder (DECISIONS, 2026-11-26).
"""

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError, Interrupted
from convnext_imagenet.base.signals import postponed
from convnext_imagenet.launch.cluster.nodes import WorkerResources
from convnext_imagenet.launch.cluster.session import pinned_to
from convnext_imagenet.launch.cluster.worker import ProgressTally
from convnext_imagenet.launch.cluster.worker_pool import Attempt, WorkerPool, cause_of
from convnext_imagenet.launch.errors import FailedLaunchError
from convnext_imagenet.launch.executor import OnProgress

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # a unit that kills three workers has an input that kills them
_POLL_SECONDS = 0.2  # how late a stop signal may be noticed
_NAME_SECONDS = 10.0  # how long Ray may take to release the name of a killed job's tally
_NAMESPACE = "convnext_imagenet"


@dataclass(frozen=True)
class ClusterExecutor:
    """An `Executor` on at most `max_workers` workers of the cluster, each of which takes `per_worker`.

    A unit whose worker or node dies is retried, up to MAX_ATTEMPTS attempts in total; then FailedLaunchError names it.
    `is_stopped` is called several times a second; if it returns True, or on a stop signal, Interrupted is raised.
    `out` is the folder that only this job writes.
    """

    ray: Any
    per_worker: WorkerResources
    out: Path
    max_workers: int | None = None
    is_stopped: Callable[[], bool] = lambda: False

    def run(
        self,
        function: Callable[[Any, OnProgress], None],
        tasks: Iterator[Any],
        count: int,
        on_progress: OnProgress,
        on_unit: Callable[[], None] = lambda: None,
    ) -> None:
        """Do all units; no worker is left when this returns or raises.

        Raises what a unit raises, FailedLaunchError when workers keep dying or find no room, ArtefactError when
        another job writes to the same folder, and Interrupted when the job is stopped.
        """
        if not count:
            return
        with postponed() as is_signalled:
            run = _ClusterRun(self, function, itertools.starmap(Attempt, enumerate(tasks)), count)
            try:
                while run.left and not is_signalled() and not self.is_stopped():
                    run.step(on_unit)
                    on_progress(run.advance())
            finally:
                run.end()
        if run.left:
            raise Interrupted(f"stopped by a signal; run the same command again to resume in {self.out}")


class _ClusterRun:
    """One call of `ClusterExecutor.run`: waiting units, running units, and their progress."""

    def __init__(
        self, executor: ClusterExecutor, function: Callable[..., None], attempts: Iterator[Attempt], count: int
    ) -> None:
        self.left = count
        self._ray, self._function, self._first_attempts = executor.ray, function, attempts
        self._retries: deque[Attempt] = deque()
        self._tally = _named_tally(executor)
        self._pool = WorkerPool(executor.ray, executor.per_worker, executor.max_workers, self._tally, executor.out)
        self._finished = self._reported = 0
        self._pending_counts: Any = None  # the request to the tally that has no answer yet
        self._counts: dict[int, int] = {}  # unit -> inputs done, as the tally last answered

    def step(self, on_unit: Callable[[], None]) -> None:
        """Give units to idle workers, wait a moment, and handle the answers that arrived."""
        pool = self._pool
        pool.resize(self.left)
        while pool.idle and (attempt := self._next()) is not None:
            worker = pool.idle.pop()
            answer = worker.run_unit.remote(self._function, attempt.task, attempt.unit, attempt.number)
            pool.busy[answer] = (worker, attempt)
        while pool.idle:
            pool.end(pool.idle.pop())
        answers = [*pool.starting, *pool.busy]
        if not answers:
            time.sleep(_POLL_SECONDS)
            return
        ready, _ = self._ray.wait(answers, num_returns=1, timeout=_POLL_SECONDS)
        for answer in ready:
            self._handle_answer(answer, on_unit)

    def advance(self) -> int:
        """Return the inputs done since the last call; never negative, although a retried unit starts again at 0."""
        self._update_counts()
        in_work = (attempt.unit for _, attempt in self._pool.busy.values())
        total = self._finished + sum(self._counts.get(unit, 0) for unit in in_work)
        reported, self._reported = self._reported, max(self._reported, total)
        return self._reported - reported

    def end(self) -> None:
        """End all workers and the tally."""
        self._pool.end_all()
        self._pool.end(self._tally)

    def _next(self) -> Attempt | None:
        return self._retries.popleft() if self._retries else next(self._first_attempts, None)

    def _handle_answer(self, answer: Any, on_unit: Callable[[], None]) -> None:
        pool, errors = self._pool, self._ray.exceptions
        worker, attempt = pool.busy.pop(answer, None) or (pool.starting.pop(answer), None)
        try:
            done = self._ray.get(answer)
        except errors.RayTaskError as error:
            raise getattr(error, "cause", None) or error from None
        except errors.RayError as error:
            pool.end(worker)
            if attempt is None:
                pool.note_start(error)
            else:
                self._retry(attempt, error)
            return
        pool.idle.append(worker)
        if attempt is None:
            pool.note_start(None)
        else:
            self._finished += done
            self.left -= 1
            self._tally.drop.remote(attempt.unit)
            on_unit()

    def _retry(self, failed: Attempt, error: Exception) -> None:
        title, number = failed.task.title, failed.number + 1
        done = self._counts.pop(failed.unit, 0)
        reason = f"{cause_of(error)} after about {done} of its inputs"
        if number >= MAX_ATTEMPTS:
            raise FailedLaunchError(
                f"{title}: its worker died {number} times, the last time {reason}; check these inputs, the memory "
                f"of the nodes and Ray's logs; finished units are kept: run the same command again to resume"
            )
        log.warning("%s: its worker died (%s); retried, attempt %d of %d", title, reason, number + 1, MAX_ATTEMPTS)
        self._retries.append(replace(failed, task=failed.task.attempt(number), number=number))

    def _update_counts(self) -> None:
        if self._pending_counts is None:
            self._pending_counts = self._tally.read.remote()
            return
        ready, _ = self._ray.wait([self._pending_counts], timeout=0)
        if ready:
            with suppress(self._ray.exceptions.RayError):  # a missing count must not end the job
                self._counts = self._ray.get(self._pending_counts)
            self._pending_counts = None


def _named_tally(executor: ClusterExecutor) -> Any:
    """Return the job's tally on this node, named after the output folder so that only one job can write there.

    The name of a killed driver's tally becomes free after a moment; this waits for it. Raises ArtefactError when
    another job has the name.
    """
    ray = executor.ray
    here = ray.get_runtime_context().get_node_id()
    options = {"num_cpus": 0, "scheduling_strategy": pinned_to(here), "name": str(executor.out.resolve())}
    end = time.monotonic() + _NAME_SECONDS
    while True:
        try:
            return ray.remote(ProgressTally).options(namespace=_NAMESPACE, **options).remote()
        except ValueError:
            if time.monotonic() > end:
                raise ArtefactError(
                    f"{executor.out}: another job of this cluster is writing here; wait for it to end, "
                    f"or choose another directory"
                ) from None
            time.sleep(_POLL_SECONDS)
