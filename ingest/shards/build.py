"""A plan becomes a RECORDS directory: the shards that are missing are written, and the whole is marked as finished."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from convnext_imagenet.base.files import require_utf8
from convnext_imagenet.base.protocol import begin, exclusive, is_finished, read_receipt, staging
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.shards.plan import IngestPlan, SplitPlan
from convnext_imagenet.ingest.shards.quarantine import Quarantined, refuse_too_many, table_bytes
from convnext_imagenet.ingest.shards.shard_writer import ShardTask, write_unit
from convnext_imagenet.ingest.shards.source_stamps import forget_changed_shards, forget_stamps
from convnext_imagenet.launch.executor import Executor, OnProgress
from convnext_imagenet.records.build import make_manifest, mark_finished, write_summary_files
from convnext_imagenet.records.manifest import Manifest, SplitEntry
from convnext_imagenet.records.receipts import split_entry
from convnext_imagenet.records.thumbnails import thumbnails_per_class

Receipts = Mapping[str, Sequence[Mapping[str, Any]]]  # the receipts of all shards, in order, by split


@contextlib.contextmanager
def open_build(plan: IngestPlan, data: Path, out: Path) -> "Iterator[RecordsBuild]":
    """Hold `out` for this plan; nothing half-written is left in it when the block ends, however it ends.

    Raises IngestError when `out` lies inside the raw tree, ArtefactError when it holds something else, belongs to
    another plan or to another writer.
    """
    data, out = data.resolve(), out.resolve()
    if out == data or any(out.is_relative_to(data / split) for split in ("train", "val", "ILSVRC")):
        raise IngestError(f"--out {out}: lies inside the raw tree {data}; choose a directory outside")
    require_utf8(out)
    with exclusive(out):
        plan_id = begin(out, "records", plan.document)
        _clear_leftovers(out, plan)
        try:
            yield RecordsBuild(plan, data, out, plan_id, forget_changed_shards(out, plan))
        finally:
            shutil.rmtree(staging(out), ignore_errors=True)


@dataclass(frozen=True)
class ShardUnit:
    """One shard to write."""

    split: SplitPlan
    index: int

    @property
    def shard(self) -> str:
        """The shard's file name."""
        return self.split.shard_names[self.index]

    @property
    def rows(self) -> int:
        """The number of images planned for the shard."""
        return len(self.split.sample_ids(self.index))


@dataclass(frozen=True)
class BuildOutcome:
    """What a finished ingest stored: rows by split, and the images that it did not store."""

    rows: dict[str, int]
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True)
class RecordsBuild:
    """A RECORDS directory in the making, held against other writers; `open_build` makes it.

    `outdated` are shards that have to be written again since their source files have changed.
    """

    plan: IngestPlan
    data: Path
    out: Path
    plan_id: str
    outdated: Sequence[str] = ()

    @property
    def shards(self) -> int:
        """The number of shards in all."""
        return sum(split.shard_count for split in self.plan.splits)

    @property
    def is_finished(self) -> bool:
        """True once the directory is marked as finished."""
        return is_finished(self.out)

    def unfinished(self) -> list[ShardUnit]:
        """The shards without a valid receipt of this plan."""
        units = (ShardUnit(split, index) for split in self.plan.splits for index in range(split.shard_count))
        return [unit for unit in units if self._receipt(unit) is None]

    def write(
        self,
        units: list[ShardUnit],
        executor: Executor,
        on_progress: OnProgress,
        on_unit: Callable[[], None] = lambda: None,
    ) -> None:
        """Write the shards where `executor` runs them; `on_progress` hears of images read, `on_unit` of shards.

        Raises FailedIngestError when the source, a worker or the disk fails; finished shards are kept.
        """
        folder = staging(self.out)
        tasks = (self._task(unit, folder) for unit in units)
        executor.run(write_unit, tasks, len(units), on_progress, on_unit)

    def finish(self, allowed: int) -> BuildOutcome:
        """Write quarantine, index and report, and mark the records as finished.

        Raises QuarantineError when more than `allowed` images are bad: the three files are there by then, and tell
        which. Raises IngestError when a shard is missing, or a split holds no image that can be read.
        """
        receipts = {split.name: self._receipts(split) for split in self.plan.splits}
        quarantined = sorted(_quarantined(receipts))
        manifest = self._manifest(receipts)
        rows = [asdict(entry) for entry in quarantined]
        manifest = write_summary_files(self.out, manifest, table_bytes(quarantined), rows)
        refuse_too_many(quarantined, allowed, self.out)
        _clear_leftovers(self.out, self.plan)
        mark_finished(self.out, manifest)
        forget_stamps(self.out)
        return BuildOutcome({name: split.rows for name, split in manifest.splits.items()}, tuple(quarantined))

    def _manifest(self, receipts: Receipts) -> Manifest:
        reencoded = {name: sum(receipt["facts"]["reencoded"] for receipt in split) for name, split in receipts.items()}
        return make_manifest(
            self.plan_id,
            self.plan.classes,
            {split.name: self._split_entry(split, receipts[split.name]) for split in self.plan.splits},
            self.plan.source | {"treatment": self.plan.image_policy.to_json(), "reencoded": reencoded},
            self.plan.seed,
            self.plan.versions,
        )

    def _split_entry(self, split: SplitPlan, receipts: Sequence[Mapping[str, Any]]) -> SplitEntry:
        entry = split_entry(receipts, len(self.plan.classes))
        if entry.rows + entry.quarantined != len(split.keys):
            raise RuntimeError(f"{split.name}: {entry.rows} + {entry.quarantined} of {len(split.keys)} accounted for")
        if not entry.rows:
            raise IngestError(f"{split.name}/: none of its {entry.quarantined} images can be read; fetch them again")
        return entry

    def _receipts(self, split: SplitPlan) -> list[dict[str, Any]]:
        receipts = []
        for index, shard in enumerate(split.shard_names):
            if (receipt := self._receipt(ShardUnit(split, index))) is None:
                raise IngestError(f"{self.out / split.name / shard}: not there; run the same command again to make it")
            receipts.append(receipt)
        return receipts

    def _receipt(self, unit: ShardUnit) -> dict[str, Any] | None:
        return read_receipt(self.out / unit.split.name, Path(unit.shard).stem, self.plan_id)

    def _task(self, unit: ShardUnit, folder: Path) -> ShardTask:
        return ShardTask(
            data=self.data,
            folder=self.out / unit.split.name,
            staging=folder / Path(unit.shard).stem,
            plan_id=self.plan_id,
            split=unit.split.name,
            shard=unit.shard,
            rows=unit.split.shard_rows(unit.index),
            largest_row_bytes=self.plan.image_policy.largest_row_bytes(unit.split.largest_row_bytes),
            largest_shard_bytes=unit.split.largest_shard_bytes,
            follow_links=self.plan.source["follows_links"],
            image_policy=self.plan.image_policy,
            pictured=self._pictured if unit.split.name == "train" else frozenset(),
        )

    @cached_property
    def _pictured(self) -> frozenset[int]:
        """The train images that the report shows: a few of each class."""
        train = next(split for split in self.plan.splits if split.name == "train")
        return train.first_of_each_class(thumbnails_per_class(len(self.plan.classes)))


def _quarantined(receipts: Receipts) -> Iterator[Quarantined]:
    for split in receipts.values():
        for receipt in split:
            yield from (Quarantined(**entry) for entry in receipt["facts"]["quarantined"])


def _clear_leftovers(out: Path, plan: IngestPlan) -> None:
    """Remove what processes that were killed were writing."""
    for folder in (out, *(out / split.name for split in plan.splits)):
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
