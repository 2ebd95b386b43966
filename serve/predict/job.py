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

import numpy as np

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.predict.part_writer import Options, PartMaker, plan_predictions
from convnext_imagenet.serve.predict.schema import part_file

OnProgress = Callable[[int], None]
IsStopped = Callable[[], bool]


@dataclass(frozen=True)
class Summary:
    """What PREDICTIONS holds at the end: rows, rows by status, parts in all and parts made by this run."""

    rows: int
    statuses: dict[str, int]
    parts: int
    parts_made: int

    @property
    def error_rows(self) -> int:
        """Rows whose input could not be scored."""
        return self.rows - self.statuses.get("ok", 0)


@dataclass(frozen=True)
class Job(PartMaker):
    """PREDICTIONS while this process, or the ranks that it is one of, may write it; rank r takes every R-th part."""

    ranks: Ranks

    @property
    def own_parts(self) -> range:
        """The numbers of the parts that fall to this rank."""
        return range(self.ranks.own.number, len(self.parts), self.ranks.own.world)

    @cached_property
    def pending(self) -> list[int]:
        """This rank's parts without a whole file and its receipt when the job was opened."""
        return [index for index in self.own_parts if self.receipt(index) is None]

    @property
    def pending_rows(self) -> int:
        """The inputs that are still to be read."""
        return sum(len(self.parts[index]) for index in self.pending)

    def make_here(self, on_progress: OnProgress, is_stopped: IsStopped) -> bool:
        """Make the pending parts in this process; False when it was stopped before their end."""
        stage = protocol.staging(self.out, f"rank-{self.ranks.own.number}")
        return self.make(self.pending, stage, on_progress, is_stopped)

    def run(
        self,
        on_progress: OnProgress,
        is_stopped: IsStopped = lambda: False,
        make_parts: "Callable[[Job, OnProgress, IsStopped], bool]" = make_here,
    ) -> Summary:
        """Score and publish the pending parts, mark PREDICTIONS as finished, and return what it holds.

        `on_progress` gets a number of inputs done; `is_stopped` is asked before each batch, and its yes on any rank
        raises Interrupted on all, for a later run to go on from. `make_parts` makes the pending parts, elsewhere if it
        wants, and returns False when it was stopped. Raises ServeError when the network answers with something that is
        not a number.
        """
        made = len(self.pending)
        is_whole = not made or make_parts(self, on_progress, is_stopped)
        stopped, made = self.ranks.sum(np.array([not is_whole, made])).tolist()
        if stopped:
            raise Interrupted(f"stopped by a signal; the same command goes on in {self.out}")
        receipts = [self.receipt(index) for index in range(len(self.parts))]
        if None in receipts:
            raise ServeError(f"{self.out}: {part_file(receipts.index(None))} changed during the run; run it again")
        statuses: Counter[str] = Counter()
        for receipt in receipts:
            statuses.update(receipt["facts"]["statuses"])
        manifest = {"plan_id": self.plan_id, "rows": self.inputs.count, "statuses": dict(statuses)}
        manifest |= {"provenance": self.plan, "parts": [receipt["files"][0] for receipt in receipts]}
        if self.ranks.own.is_first:
            protocol.finish(self.out, "predictions", manifest)
        return Summary(self.inputs.count, dict(statuses), len(self.parts), made)


@contextlib.contextmanager
def open_job(
    checkpoint: Checkpoint, inputs: Inputs, out: Path, options: Options, ranks: Ranks = SINGLE
) -> Iterator[Job]:
    """Hold `out` for this job alone; its first rank does so for all.

    Raises ArtefactError when `out` belongs to another model, transform, input set or option, or another process
    writes there, and ServeError when it lies inside the inputs.
    """
    if inputs.is_inside(out):
        raise ServeError(f"{out}: lies inside the inputs, where its files would be inputs; choose another --out")
    plan = plan_predictions(checkpoint, inputs, options)
    if not ranks.own.is_first:
        ranks.wait_for_all()
        plan_id = protocol.join(out, "predictions", plan)
        yield Job(checkpoint, inputs, out, options, plan, plan_id, ranks)
        return
    protocol.begin(out, "predictions", plan)  # before the lock, so that a refused directory gets no lock file
    with protocol.exclusive(out):
        plan_id = protocol.begin(out, "predictions", plan)
        protocol.staging(out)
        ranks.wait_for_all()
        yield Job(checkpoint, inputs, out, options, plan, plan_id, ranks)
