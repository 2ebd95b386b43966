"""The workers of a job on a Ray cluster: starts them where nodes have room, keeps track of them, and ends them."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.launch.cluster.nodes import WorkerResources, room_for, software_here
from convnext_imagenet.launch.cluster.session import live_nodes
from convnext_imagenet.launch.cluster.worker import Worker
from convnext_imagenet.launch.errors import FailedLaunchError
from convnext_imagenet.launch.executor import Unit

_CHECK_SECONDS = 2.0  # asking for the nodes of the cluster is not free
_NO_ROOM_SECONDS = 60.0  # gives a cluster time to replace its only node
_MAX_FAILURES = 20  # all workers of a node that is about to die fail one after another; that must not end the job


@dataclass(frozen=True)
class Attempt:
    """An attempt at a unit: the unit's number in the job, its task, and the number of this attempt, from 0."""

    unit: int
    task: Unit
    number: int = 0


class WorkerPool:
    """The workers of a job: `starting` ones, `busy` ones with their units, and `idle` ones."""

    def __init__(self, ray: Any, per_worker: WorkerResources, max_workers: int | None, tally: Any, out: Path) -> None:
        self._ray, self._per_worker, self._max_workers = ray, per_worker, max_workers
        self._tally, self._software, self._out = tally, software_here(), str(out)
        self._class = self._ray.remote(Worker)
        self.starting: dict[Any, Any] = {}  # the answer that we wait for -> the worker
        self.busy: dict[Any, tuple[Any, Attempt]] = {}
        self.idle: list[Any] = []
        self._checked = self._had_room = -math.inf
        self._failures = 0

    def resize(self, units_left: int) -> None:
        """Start workers for the remaining units, as many as fit on the nodes that the cluster has now.

        Raises FailedLaunchError when no node has had room for a minute.
        """
        now = time.monotonic()
        if now - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        room = room_for(self._per_worker, live_nodes(self._ray))
        if room or self._had_room < 0:
            self._had_room = now
        elif now - self._had_room > _NO_ROOM_SECONDS:
            raise FailedLaunchError(
                f"no node of the cluster had room for a worker for {_NO_ROOM_SECONDS:g} s; finished units are kept: "
                f"start nodes and run the same command again to resume"
            )
        wanted = min(room, units_left, self._max_workers or room)
        for _ in range(wanted - len(self.starting) - len(self.busy) - len(self.idle)):
            self._start_worker()

    def _start_worker(self) -> None:
        per_worker = self._per_worker
        worker = self._class.options(
            num_cpus=per_worker.cpus,
            num_gpus=per_worker.gpus,
            resources=dict(per_worker.others),
            scheduling_strategy="SPREAD",
        ).remote()
        cores = int(per_worker.cpus) if per_worker.keeps_cores else 0
        self.starting[worker.set_up.remote(self._software, self._tally, cores, self._out)] = worker

    def note_start(self, error: Exception | None) -> None:
        """Count a worker that got ready, or died before. Raises FailedLaunchError when too many die in a row."""
        self._failures = 0 if error is None else self._failures + 1
        if self._failures >= _MAX_FAILURES:
            raise FailedLaunchError(
                f"{self._failures} workers in a row died before their first unit ({cause_of(error)}); check the memory "
                f"of the nodes and Ray's logs; finished units are kept: run the same command again to resume"
            )

    def end(self, worker: Any) -> None:
        """Kill a worker at once, whatever it is doing."""
        with suppress(Exception):  # it may be dead, or Ray gone
            self._ray.kill(worker)

    def end_all(self) -> None:
        """Kill all workers."""
        for worker in (*self.starting.values(), *(worker for worker, _ in self.busy.values()), *self.idle):
            self.end(worker)


def cause_of(error: Exception | None) -> str:
    """Return in a few words why a worker died; Ray's own message is a page long."""
    text = " ".join(str(error).split()).lower()
    if "out_of_memory" in text or "outofmemory" in type(error).__name__.lower():
        return "out of memory"
    if "its node has died" in text:
        return "its node died"
    return "its process was killed or crashed" if "worker process has died" in text else type(error).__name__
