"""Inputs of any kind -> PREDICTIONS: one row for every input, in parts that a crash cannot half-write.

A part is a fixed range of the inputs and depends on nothing outside it: its batches begin with its first input.
So a job that was killed and started again, or that several ranks share, ends with the bytes of one that was not.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.launch.ranks import SINGLE, Ranks
from convnext_imagenet.records import artefact
from convnext_imagenet.records.errors import Interrupted
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.engine import Engine, engine_facts, open_engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs import Inputs, Item
from convnext_imagenet.serve.overlap import batches, map_ahead
from convnext_imagenet.serve.predictions import make_row, part_file, part_ranges, part_unit, write_part
from convnext_imagenet.serve.scoring import score_samples
from convnext_imagenet.serve.sources import Sample, read_sample, timed_out

_BATCHES_AHEAD = 2
_PACKAGES = ("convnext_imagenet", "mindspore", "numpy", "opencv-python-headless", "pillow", "pyarrow")


@dataclass(frozen=True)
class Options:
    """What the user chooses; `workers` and `timeout_s` are no part of the plan, since they change no answer.

    `flip` averages over the image and its mirror image, `extras` are further columns: "features", "logits". An input
    that takes over `timeout_s` seconds to read and decode becomes an error row. `engine` is "mindspore" or
    "onnxruntime".
    """

    topk: int = 5
    part_rows: int = 4096
    batch_size: int = 32
    workers: int = 1
    device_target: str = "CPU"
    flip: bool = False
    extras: tuple[str, ...] = ()
    timeout_s: float = 60.0
    engine: str = "mindspore"


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


def plan_predictions(checkpoint: Checkpoint, inputs: Inputs, options: Options) -> dict[str, Any]:
    """Everything that decides the bytes of PREDICTIONS, as JSON; no times, hosts or folders.

    Batch size and device are part of it, because they move the last bits of a score (on the CPU, batches of 1 to
    32 moved ConvNeXt-atto's logits by 6e-7 of the largest).
    """
    card = checkpoint.card
    batch_size = min(options.batch_size, options.part_rows, inputs.count)
    return {
        "model": {"sha256": checkpoint.sha256, "variant": card.config.variant},
        "transform": dataclasses.asdict(card.transform),
        "classes": {"count": len(card.classes), "sha256": checkpoint.classes_sha256},
        "inputs": {"count": inputs.count, "sha256": inputs.sha256},
        "topk": min(options.topk, len(card.classes)),
        "parts": {"first_rows": batch_size, "most_rows": options.part_rows},
        "batch_size": batch_size,
        "flip": options.flip,
        "extras": list(options.extras),
        "device_target": options.device_target,
        "engine": engine_facts(options.engine, options.device_target),
        "versions": {name: version(name) for name in _PACKAGES},
    }


@dataclass(frozen=True)
class Job:
    """PREDICTIONS while this process, or the ranks that it is one of, may write it; rank r takes every R-th part."""

    checkpoint: Checkpoint
    inputs: Inputs
    out: Path
    options: Options
    plan: dict[str, Any]
    plan_id: str
    ranks: Ranks

    @cached_property
    def parts(self) -> list[range]:
        """The inputs of each part."""
        return part_ranges(self.inputs.count, **self.plan["parts"])

    @property
    def own_parts(self) -> range:
        """The numbers of the parts that fall to this rank."""
        return range(self.ranks.place.rank, len(self.parts), self.ranks.place.ranks)

    @cached_property
    def pending(self) -> list[int]:
        """This rank's parts without a whole file and its receipt when the job was opened."""
        return [index for index in self.own_parts if self._receipt(index) is None]

    @property
    def pending_rows(self) -> int:
        """The inputs that are still to be read."""
        return sum(len(self.parts[index]) for index in self.pending)

    def run(self, on_progress: Callable[[int], None], is_stopped: Callable[[], bool] = lambda: False) -> Summary:
        """Score and publish the pending parts, mark PREDICTIONS as finished, and return what it holds.

        `on_progress` gets a number of inputs done; `is_stopped` is asked before each batch, and its yes on any rank
        raises Interrupted on all, for a later run to go on from. Raises ServeError when the network answers with
        something that is not a number.
        """
        made = len(self.pending)
        is_whole = not made or self._score(on_progress, is_stopped)
        stopped, made = self.ranks.sum(np.array([not is_whole, made])).tolist()
        if stopped:
            raise Interrupted(f"stopped by a signal; the same command goes on in {self.out}")
        receipts = [self._receipt(index) for index in range(len(self.parts))]
        if None in receipts:
            raise ServeError(f"{self.out}: {part_file(receipts.index(None))} changed during the run; run it again")
        statuses: Counter[str] = Counter()
        for receipt in receipts:
            statuses.update(receipt["facts"]["statuses"])
        manifest = {"plan_id": self.plan_id, "rows": self.inputs.count, "statuses": dict(statuses)}
        manifest |= {"provenance": self.plan, "parts": [receipt["files"][0] for receipt in receipts]}
        if self.ranks.place.is_first:
            artefact.finish(self.out, "predictions", manifest)
        return Summary(self.inputs.count, dict(statuses), len(self.parts), made)

    def _receipt(self, index: int) -> Any:
        return artefact.read_receipt(self.out, part_unit(index), self.plan_id, deep=True)

    def _score(self, on_progress: Callable[[int], None], is_stopped: Callable[[], bool]) -> bool:
        """Make this rank's pending parts; False when it was stopped before their end."""
        extras = self.options.extras
        engine = open_engine(self.options.engine, self.checkpoint, with_features="features" in extras)
        stage = artefact.staging(self.out, f"rank-{self.ranks.place.rank}")
        with contextlib.closing(self._samples()) as samples:
            for index in self.pending:
                rows: list[dict[str, Any]] = []
                for batch in batches(islice(samples, len(self.parts[index])), self.plan["batch_size"]):
                    if is_stopped():
                        return False
                    rows += self._rows(engine, batch)
                    on_progress(len(batch))
                path = stage / f"{part_file(index)}{artefact.STAGED}"
                write_part(path, rows, self.plan, extras)
                statuses = Counter(row["status"] for row in rows)
                facts = {"first": self.parts[index].start, "rows": len(rows), "statuses": statuses}
                artefact.publish([path], self.out, part_unit(index), self.plan_id, facts)
        return True

    def _rows(self, engine: Engine, batch: Sequence[Sample]) -> list[dict[str, Any]]:
        classes, plan = self.checkpoint.card.classes, self.plan
        answers = score_samples(
            engine, batch, classes, plan["topk"], plan["batch_size"], self.options.flip, self.options.extras
        )
        return [make_row(*pair) for pair in zip(batch, answers, strict=True)]

    def _samples(self) -> Generator[Sample, None, None]:
        """The inputs of all pending parts as samples, in order, read and decoded ahead of the network."""
        numbers = (pair for run in _runs([self.parts[index] for index in self.pending]) for pair in self._items(run))
        timeout_s, workers = self.options.timeout_s, self.options.workers
        ahead = _BATCHES_AHEAD * self.plan["batch_size"]

        def give_up(numbered: tuple[int, Item]) -> Sample:
            return timed_out(numbered[1], numbered[0], timeout_s)

        return map_ahead(self._read, numbers, workers, ahead, timeout_s, give_up)

    def _items(self, run: range) -> Iterator[tuple[int, Item]]:
        return zip(run, self.inputs.items(run), strict=True)

    def _read(self, numbered: tuple[int, Item]) -> Sample:
        number, item = numbered
        return read_sample(item, number, self.checkpoint.card.transform)


def _runs(parts: Sequence[range]) -> list[range]:
    """The same numbers in as few ranges as can be: a table or a tar is opened once for each."""
    runs: list[range] = []
    for part in parts:
        if runs and runs[-1].stop == part.start:
            runs[-1] = range(runs[-1].start, part.stop)
        else:
            runs.append(part)
    return runs


@contextlib.contextmanager
def open_job(
    checkpoint: Checkpoint, inputs: Inputs, out: Path, options: Options, ranks: Ranks = SINGLE
) -> Iterator[Job]:
    """Hold `out` for this job alone; its first rank does so for all.

    Raises RecordsError when `out` belongs to another model, transform, input set or option, or another process
    writes there, and ServeError when it lies inside the inputs.
    """
    if inputs.is_inside(out):
        raise ServeError(f"{out}: lies inside the inputs, where its files would be inputs; choose another --out")
    plan = plan_predictions(checkpoint, inputs, options)
    if not ranks.place.is_first:
        ranks.wait_for_all()
        plan_id = artefact.join(out, "predictions", plan)
        yield Job(checkpoint, inputs, out, options, plan, plan_id, ranks)
        return
    artefact.begin(out, "predictions", plan)  # before the lock, so that a refused directory gets no lock file
    with artefact.exclusive(out):
        plan_id = artefact.begin(out, "predictions", plan)
        artefact.staging(out)
        ranks.wait_for_all()
        yield Job(checkpoint, inputs, out, options, plan, plan_id, ranks)
