"""Units of work over the workers of a Ray cluster: each is done once, and again elsewhere when its worker died.

The driver holds plans and counts. What a unit reads and writes passes through the shared folder alone.
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
from convnext_imagenet.launch.cluster.session import on
from convnext_imagenet.launch.cluster.worker import Tally
from convnext_imagenet.launch.cluster.worker_pool import Attempt, WorkerPool, cause_of
from convnext_imagenet.launch.errors import FailedLaunchError
from convnext_imagenet.launch.executor import OnProgress

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
_POLL_SECONDS = 0.2
_NAME_SECONDS = 10.0
_NAMESPACE = "convnext_imagenet"


@dataclass(frozen=True)
class ClusterExecutor:
    """Runs units on at most `most` workers of the cluster, each of which takes `per_worker`; see `Executor`.

    A unit whose worker or node dies is tried again, MOST_ATTEMPTS times in all, and then FailedLaunchError names it.
    `is_stopped` is asked several times a second; its yes, and a stop signal, raise Interrupted. `out` is what this
    job alone writes.
    """

    ray: Any
    per_worker: WorkerResources
    out: Path
    most: int | None = None
    is_stopped: Callable[[], bool] = lambda: False

    def run(
        self,
        function: Callable[[Any, OnProgress], None],
        tasks: Iterator[Any],
        count: int,
        on_progress: OnProgress,
        on_unit: Callable[[], None] = lambda: None,
    ) -> None:
        """Do all units; workers are dismissed when it returns and when it raises."""
        if not count:
            return
        with postponed() as is_signalled:
            job = _Job(self, function, itertools.starmap(Attempt, enumerate(tasks)), count)
            try:
                while job.left and not is_signalled() and not self.is_stopped():
                    job.step(on_unit)
                    on_progress(job.advance())
            finally:
                job.end()
        if job.left:
            raise Interrupted(f"stopped by a signal; the same command goes on in {self.out}")


class _Job:
    """One call of `ClusterExecutor.run`: units that wait, units in work, and what was told of them."""

    def __init__(
        self, executor: ClusterExecutor, function: Callable[..., None], units: Iterator[Attempt], count: int
    ) -> None:
        self.left = count
        self._ray, self._function, self._units = executor.ray, function, units
        self._again: deque[Attempt] = deque()
        self._tally = _named_tally(executor)
        self._pool = WorkerPool(executor.ray, executor.per_worker, executor.most, self._tally, executor.out)
        self._finished = self._told = 0
        self._read: Any = None
        self._seen: dict[int, int] = {}

    def step(self, on_unit: Callable[[], None]) -> None:
        """Give units to idle workers, wait a moment, and settle what has been answered."""
        pool = self._pool
        pool.fit(self.left)
        while pool.idle and (unit := self._next()) is not None:
            worker = pool.idle.pop()
            pool.working[worker.do.remote(self._function, unit.task, unit.unit, unit.attempt)] = (worker, unit)
        while pool.idle:
            pool.dismiss(pool.idle.pop())
        answers = [*pool.opening, *pool.working]
        if not answers:
            time.sleep(_POLL_SECONDS)
            return
        ready, _ = self._ray.wait(answers, num_returns=1, timeout=_POLL_SECONDS)
        for answer in ready:
            self._settle(answer, on_unit)

    def advance(self) -> int:
        """The inputs done since this was asked before; never negative, though a lost unit begins anew."""
        self._read_tally()
        in_work = (unit.unit for _, unit in self._pool.working.values())
        total = self._finished + sum(self._seen.get(unit, 0) for unit in in_work)
        told, self._told = self._told, max(self._told, total)
        return self._told - told

    def end(self) -> None:
        """Dismiss everyone; by the end of the call nobody of them is told anything more."""
        self._pool.dismiss_all()
        self._pool.dismiss(self._tally)

    def _next(self) -> Attempt | None:
        return self._again.popleft() if self._again else next(self._units, None)

    def _settle(self, answer: Any, on_unit: Callable[[], None]) -> None:
        pool, errors = self._pool, self._ray.exceptions
        worker, unit = pool.working.pop(answer, None) or (pool.opening.pop(answer), None)
        try:
            done = self._ray.get(answer)
        except errors.RayTaskError as error:
            raise getattr(error, "cause", None) or error from None
        except errors.RayError as error:
            pool.dismiss(worker)
            if unit is None:
                pool.note_opening(error)
            else:
                self._lose(unit, error)
            return
        pool.idle.append(worker)
        if unit is None:
            pool.note_opening(None)
        else:
            self._finished += done
            self.left -= 1
            self._tally.drop.remote(unit.unit)
            on_unit()

    def _lose(self, unit: Attempt, error: Exception) -> None:
        title, number = unit.task.title, unit.attempt + 1
        done = self._seen.pop(unit.unit, 0)
        reason = f"{cause_of(error)} after about {done} of its inputs"
        if number >= MOST_ATTEMPTS:
            raise FailedLaunchError(
                f"{title}: its worker died {number} times, the last time {reason}; look at these inputs, at the memory "
                f"of the nodes and into Ray's logs; finished units are kept, run the same command again"
            )
        log.warning("%s: its worker died (%s); tried again, attempt %d of %d", title, reason, number + 1, MOST_ATTEMPTS)
        self._again.append(replace(unit, task=unit.task.attempt(number), attempt=number))

    def _read_tally(self) -> None:
        if self._read is None:
            self._read = self._tally.read.remote()
            return
        ready, _ = self._ray.wait([self._read], timeout=0)
        if ready:
            with suppress(self._ray.exceptions.RayError):  # progress is a comfort, no reason to end
                self._seen = self._ray.get(self._read)
            self._read = None


def _named_tally(executor: ClusterExecutor) -> Any:
    """The job's tally, on this node; its name is that of the output, so that a cluster has one job on each.

    The name of a driver that was killed is free again after a moment, for which this waits.
    """
    ray = executor.ray
    here = ray.get_runtime_context().get_node_id()
    options = {"num_cpus": 0, "scheduling_strategy": on(here), "name": str(executor.out.resolve())}
    end = time.monotonic() + _NAME_SECONDS
    while True:
        try:
            return ray.remote(Tally).options(namespace=_NAMESPACE, **options).remote()
        except ValueError:
            if time.monotonic() > end:
                raise ArtefactError(
                    f"{executor.out}: another job of this cluster is writing here; wait for it to end, "
                    f"or choose another directory"
                ) from None
            time.sleep(_POLL_SECONDS)
