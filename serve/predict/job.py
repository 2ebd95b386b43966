"""Inputs of any kind -> PREDICTIONS: one row for every input, in parts that a crash cannot half-write.

Who makes which part changes no byte: so a job that was killed and started again, or that several ranks or the nodes
of a cluster share, ends with the bytes of one that was not.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.files import is_leftover
from convnext_imagenet.launch.executor import OnProgress
from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.predict.part_writer import PartWriter, plan_predictions
from convnext_imagenet.serve.predict.schema import part_file
from convnext_imagenet.serve.settings import PredictOptions


@dataclass(frozen=True)
class Summary:
    """What PREDICTIONS holds at the end: rows, rows by status, parts in all and parts made by this run."""

    rows: int
    statuses: dict[str, int]
    parts: int
    parts_made: int

    @property
    def error_rows(self) -> int:
        """Return the rows whose input could not be scored."""
        return self.rows - self.statuses.get("ok", 0)


class PartRunner(Protocol):
    """Where a job's parts are made: in this process, or by other processes."""

    def run(self, job: "PredictionJob", on_progress: OnProgress) -> bool:
        """Make the job's pending parts; return False when it was stopped before their end."""


@dataclass(frozen=True)
class LocalRunner:
    """Makes parts in this process, with one network and one read-ahead over all of them.

    `is_stopped` is asked before each batch.
    """

    is_stopped: Callable[[], bool] = lambda: False

    def run(self, job: "PredictionJob", on_progress: OnProgress) -> bool:
        """See `PartRunner`."""
        staging = protocol.staging(job.out, f"rank-{job.ranks.own.number}")
        return job.writer.write(job.pending, staging, on_progress, self.is_stopped)


_LOCAL = LocalRunner()


@dataclass(frozen=True)
class PredictionJob:
    """PREDICTIONS while this process, or the ranks that it is one of, may write it; rank r takes every R-th part."""

    writer: PartWriter
    ranks: Ranks

    @property
    def out(self) -> Path:
        """Return the PREDICTIONS directory."""
        return self.writer.out

    @property
    def own_parts(self) -> range:
        """Return the numbers of the parts that fall to this rank."""
        return range(self.ranks.own.number, len(self.writer.parts), self.ranks.own.world)

    @cached_property
    def pending(self) -> list[int]:
        """This rank's parts without a whole file and its receipt when the job was opened."""
        return [index for index in self.own_parts if self.writer.receipt(index) is None]

    @property
    def pending_rows(self) -> int:
        """Return the number of inputs that are still to be read."""
        return sum(len(self.writer.parts[index]) for index in self.pending)

    def run(self, on_progress: OnProgress, runner: PartRunner = _LOCAL) -> Summary:
        """Have `runner` make the pending parts, mark PREDICTIONS as finished, and return what it holds.

        `on_progress` gets a number of inputs done. Raises Interrupted on all ranks when the runner of one was stopped;
        a later run resumes. Raises ServeError when the network gives something that is not a number.
        """
        made = len(self.pending)
        is_whole = not made or runner.run(self, on_progress)
        stopped, made = self.ranks.sum(np.array([not is_whole, made])).tolist()
        if stopped:
            raise Interrupted(f"stopped by a signal; the same command goes on in {self.out}")
        receipts = self._receipts()
        statuses: Counter[str] = Counter()
        for receipt in receipts:
            statuses.update(receipt["facts"]["statuses"])
        rows = self.writer.inputs.count
        manifest = {"plan_id": self.writer.plan_id, "rows": rows, "statuses": dict(statuses)}
        manifest |= {"provenance": self.writer.plan, "parts": [receipt["files"][0] for receipt in receipts]}
        if self.ranks.own.is_first:
            protocol.finish(self.out, "predictions", manifest)
        return Summary(rows, dict(statuses), len(receipts), made)

    def _receipts(self) -> list[Any]:
        """Return the receipts of all parts, those of other ranks included; ServeError when one is not there."""
        receipts = [self.writer.receipt(index) for index in range(len(self.writer.parts))]
        if None in receipts:
            raise ServeError(f"{self.out}: {part_file(receipts.index(None))} changed during the run; run it again")
        return receipts


@contextlib.contextmanager
def open_job(
    checkpoint: Checkpoint, inputs: Inputs, out: Path, options: PredictOptions, ranks: Ranks = SINGLE
) -> Iterator[PredictionJob]:
    """Hold `out` for this job only; its first rank does so for all.

    Raises ArtefactError when `out` belongs to another model, transform, input set or option, or another process
    writes there, and ServeError when it lies inside the inputs.
    """
    if inputs.is_inside(out):
        raise ServeError(f"{out}: lies inside the inputs, where its files would be inputs; choose another --out")
    plan = plan_predictions(checkpoint, inputs, options)
    if not ranks.own.is_first:
        ranks.wait_for_all()
        plan_id = protocol.join(out, "predictions", plan)
        yield PredictionJob(PartWriter(checkpoint, inputs, out, options, plan, plan_id), ranks)
        return
    protocol.begin(out, "predictions", plan)  # before the lock, so that a refused directory gets no lock file
    with protocol.exclusive(out):
        plan_id = protocol.begin(out, "predictions", plan)
        _remove_leftovers(out)
        protocol.staging(out)
        ranks.wait_for_all()
        yield PredictionJob(PartWriter(checkpoint, inputs, out, options, plan, plan_id), ranks)


def _remove_leftovers(out: Path) -> None:
    """Remove what a process that was killed while it wrote a receipt has left: a finished job holds nothing else."""
    for path in out.iterdir():
        if is_leftover(path.name):
            path.unlink(missing_ok=True)
