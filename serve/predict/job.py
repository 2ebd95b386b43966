"""Inputs of any kind -> PREDICTIONS: one row for every input, in parts that a crash cannot half-write.

The bytes of a part do not depend on who makes it. So a job that was killed and resumed, or that several ranks or
nodes share, ends with the bytes of a job that ran undisturbed in one process.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.base.protocol import OtherPlanError
from convnext_imagenet.launch.executor import OnProgress
from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.predict.part_writer import PartWriter, plan_predictions, user_changes
from convnext_imagenet.serve.predict.place import LocalPlace, Place
from convnext_imagenet.serve.predict.retries import plan_retry, read_retries, write_retries
from convnext_imagenet.serve.predict.schema import part_file
from convnext_imagenet.serve.settings import PredictOptions


@dataclass(frozen=True)
class Summary:
    """What PREDICTIONS holds at the end: rows, rows by status, all parts, and the parts made by this run.

    `first_error_part` is the number of the first part with an error row, None without one.
    """

    rows: int
    statuses: dict[str, int]
    parts: int
    parts_made: int
    first_error_part: int | None = None

    @property
    def error_rows(self) -> int:
        """Return the number of rows whose input could not be scored."""
        return self.rows - self.statuses.get("ok", 0)


class PartRunner(Protocol):
    """Where a job's parts are made: in this process, or by other processes."""

    def run(self, job: "PredictionJob", on_progress: OnProgress) -> bool:
        """Make the job's pending parts; return False when stopped before the last one was finished."""


@dataclass(frozen=True)
class LocalRunner:
    """Makes parts in this process, with one network and one read-ahead for all of them.

    `is_stopped` is asked before each batch and while one is waited for; `on_slowest` as in `PartWriter.write`.
    """

    is_stopped: Callable[[], bool] = lambda: False
    on_slowest: Callable[[str], None] = lambda stage: None

    def run(self, job: "PredictionJob", on_progress: OnProgress) -> bool:
        """Make the job's pending parts; return False when stopped. Raises what `PartWriter.write` raises."""
        staging = job.out.staging(f"rank-{job.ranks.own.number}")
        return job.writer.write(job.pending, staging, on_progress, self.is_stopped, self.on_slowest)


_LOCAL = LocalRunner()


@dataclass(frozen=True)
class PredictionJob:
    """The right of this process and its ranks to write PREDICTIONS; rank r of R takes parts r, r + R, r + 2R, ..."""

    writer: PartWriter
    ranks: Ranks

    @property
    def out(self) -> Place:
        """Return the PREDICTIONS directory."""
        return self.writer.out

    @property
    def own_parts(self) -> range:
        """Return the numbers of this rank's parts."""
        return range(self.ranks.own.number, len(self.writer.parts), self.ranks.own.world)

    @cached_property
    def pending(self) -> list[int]:
        """Return this rank's parts that had no whole file with a receipt when first asked."""
        receipts = self.writer.receipts(self.own_parts)
        return [index for index, receipt in zip(self.own_parts, receipts, strict=True) if receipt is None]

    @property
    def pending_rows(self) -> int:
        """Return the number of inputs that are still to be read by this rank."""
        return sum(len(self.writer.parts[index]) for index in self.pending)

    def run(self, on_progress: OnProgress, runner: PartRunner = _LOCAL) -> Summary:
        """Make the pending parts by `runner`, mark PREDICTIONS as finished, and return what it holds.

        `on_progress` gets the number of inputs done since its last call. Raises Interrupted on all ranks when the
        runner of one was stopped; a later run resumes. Raises ServeError when the network returns NaN or infinity,
        FailedError when the inputs cannot be read any more.
        """
        made = len(self.pending)
        is_whole = not made or runner.run(self, on_progress)
        stopped, made = self.ranks.sum(np.array([not is_whole, made])).tolist()
        if stopped:
            raise Interrupted(f"stopped by a signal; run the same command again to resume in {self.out}")
        receipts = self._receipts()
        by_part = [receipt["facts"]["statuses"] for receipt in receipts]
        statuses = sum(map(Counter, by_part), Counter[str]())
        bad = next((index for index, counts in enumerate(by_part) if counts.keys() - {"ok"}), None)
        rows = self.writer.inputs.count
        manifest = {"plan_id": self.writer.plan_id, "rows": rows, "statuses": dict(statuses)}
        manifest |= {"provenance": self.writer.plan, "parts": [receipt["files"][0] for receipt in receipts]}
        if self.writer.retries:
            manifest["retries"] = self.writer.retries
        if self.ranks.own.is_first:
            self.out.finish(manifest)
        return Summary(rows, dict(statuses), len(receipts), made, bad)

    def _receipts(self) -> list[Any]:
        """Return the receipts of all parts, also of other ranks. Raises ServeError when one is missing."""
        receipts = self.writer.receipts(range(len(self.writer.parts)))
        if None in receipts:
            raise ServeError(
                f"{self.out}: {part_file(receipts.index(None))} changed during the run; run the same command again"
            )
        return receipts


def first_error_row(place: Place, part: int) -> str:
    """Return the name of the first input of a part that has an error row, with the error, in one line."""
    with place.open_part(part_file(part)) as file:
        rows = read_table(file, ("source", "status", "error"))
    number = next(n for n, status in enumerate(rows["status"]) if status.as_py() != "ok")
    source, error = (rows[name][number].as_py() for name in ("source", "error"))
    return f"{source if source.isprintable() else repr(source)} ({error})"


@contextlib.contextmanager
def open_job(
    checkpoint: Checkpoint,
    inputs: Inputs,
    out: Path | Place,
    options: PredictOptions,
    ranks: Ranks = SINGLE,
    retry: Collection[str] = (),
) -> Iterator[PredictionJob]:
    """Reserve `out` for this job only; its first rank does so for all ranks.

    Parts that hold rows with a status of `retry` become pending, once: unless the last retry is unfinished.

    Raises ArtefactError when `out` belongs to another model, transform, set of inputs or option, or when another
    process writes there; ServeError when it lies inside the inputs; and what `engine_facts` raises.
    """
    place = LocalPlace(out) if isinstance(out, Path) else out
    if place.lies_in(inputs):
        raise ServeError(f"{place}: lies inside the inputs, so its files would become inputs; choose another --out")
    plan = plan_predictions(checkpoint, inputs, options)
    if not ranks.own.is_first:
        ranks.wait_for_all()  # the first rank has begun the directory
        plan_id = _named(place.join, place, plan)
        yield PredictionJob(PartWriter(checkpoint, inputs, place, options, plan, plan_id, read_retries(place)), ranks)
        return
    _named(place.begin, place, plan)  # before the lock, so that a refused directory gets no lock file
    with place.exclusive():
        plan_id = _named(place.begin, place, plan)  # again: another process may have begun it meanwhile
        place.clear()
        writer = PartWriter(checkpoint, inputs, place, options, plan, plan_id, read_retries(place))
        writer = _with_retry(writer, retry) if retry else writer
        ranks.wait_for_all()  # only now may the other ranks join
        yield PredictionJob(writer, ranks)


def _named(begin: Callable[[dict[str, Any]], str], place: Place, plan: dict[str, Any]) -> str:
    """Return what `begin` returns. Its error names only what the user changed, not what follows from it."""
    try:
        return begin(plan)
    except OtherPlanError as error:
        raise OtherPlanError(place, user_changes(error.changed), error.begun_by) from None


def _with_retry(writer: PartWriter, statuses: Collection[str]) -> PartWriter:
    """Return the writer after a retry of parts with such rows was begun, if there is one to begin."""
    planned = plan_retry(writer.retries, writer.receipts(range(len(writer.parts))), statuses)
    if planned is None:
        return writer
    retries = [*writer.retries, planned]
    writer.out.reopen()  # first: a mark of completeness never stands beside parts that are to be made
    write_retries(writer.out, retries)
    return dataclasses.replace(writer, retries=retries)
