"""The workers of a job on a Ray cluster: hired where there is room, known by what they do, dismissed at the end."""

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

_LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
_MOST_FAILURES = 20


@dataclass(frozen=True)
class Attempt:
    """A unit, by its number in the job, and which attempt at it this is, from 0."""

    unit: int
    task: Unit
    attempt: int = 0


class WorkerPool:
    """The workers of a job: those getting ready, those at a unit, and those that wait for one."""

    def __init__(self, ray: Any, per_worker: WorkerResources, most: int | None, tally: Any, out: Path) -> None:
        self._ray, self._per_worker, self._most = ray, per_worker, most
        self._tally, self._software, self._out = tally, software_here(), str(out)
        self._class = self._ray.remote(Worker)
        self.opening: dict[Any, Any] = {}  # the answer that is waited for -> the worker
        self.working: dict[Any, tuple[Any, Attempt]] = {}
        self.idle: list[Any] = []
        self._looked = self._had_room = -math.inf
        self._failures = 0

    def fit(self, units_left: int) -> None:
        """Hire and dismiss, so that there are as many workers as units are left and as the nodes of now hold."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        room = room_for(self._per_worker, live_nodes(self._ray))
        if room or self._had_room < 0:
            self._had_room = now
        elif now - self._had_room > _PATIENCE_SECONDS:
            raise FailedLaunchError(
                f"for {_PATIENCE_SECONDS:g} s no node of the cluster could hold a worker; finished units are kept: "
                f"start nodes and run the same command again"
            )
        wanted = min(room, units_left, self._most or room)
        for _ in range(wanted - len(self.opening) - len(self.working) - len(self.idle)):
            self._hire()

    def _hire(self) -> None:
        per_worker = self._per_worker
        worker = self._class.options(
            num_cpus=per_worker.cpus,
            num_gpus=per_worker.gpus,
            resources=dict(per_worker.others),
            scheduling_strategy="SPREAD",
        ).remote()
        cores = int(per_worker.cpus) if per_worker.keeps_cores else 0
        self.opening[worker.open.remote(self._software, self._tally, cores, self._out)] = worker

    def note_opening(self, error: Exception | None) -> None:
        """Note that a worker is ready, or that it died before; FailedLaunchError when none gets ready any more."""
        self._failures = 0 if error is None else self._failures + 1
        if self._failures >= _MOST_FAILURES:
            raise FailedLaunchError(
                f"{self._failures} workers in turn died before their first unit ({cause_of(error)}); "
                f"look at the memory of the nodes and into Ray's logs; finished units are kept, run the command again"
            )

    def dismiss(self, worker: Any) -> None:
        """End a worker at once, whatever it does."""
        with suppress(Exception):  # it may be dead, or Ray gone
            self._ray.kill(worker)

    def dismiss_all(self) -> None:
        """End all workers."""
        for worker in (*self.opening.values(), *(worker for worker, _ in self.working.values()), *self.idle):
            self.dismiss(worker)


def cause_of(error: Exception | None) -> str:
    """Why a worker is gone, in a few words; Ray's own are a page."""
    text = " ".join(str(error).split()).lower()
    if "out_of_memory" in text or "outofmemory" in type(error).__name__.lower():
        return "out of memory"
    if "its node has died" in text:
        return "its node died"
    return "its process was killed or crashed" if "worker process has died" in text else type(error).__name__
