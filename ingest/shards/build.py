"""A plan becomes a RECORDS directory: what is not yet written is written, and the whole is marked as finished."""

import contextlib
import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from convnext_imagenet.base.files import require_utf8, sha256_file, write_atomically
from convnext_imagenet.base.protocol import begin, exclusive, finish, is_finished, read_receipt, staging
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.shards.plan import IngestPlan, SplitPlan
from convnext_imagenet.ingest.shards.quarantine import QUARANTINE_FILE, Quarantined, refuse_too_many, table_bytes
from convnext_imagenet.ingest.shards.shard_writer import ShardTask, write_unit
from convnext_imagenet.ingest.shards.source_stamps import forget_changed_shards, forget_stamps
from convnext_imagenet.launch.executor import Executor, OnProgress
from convnext_imagenet.records.index import INDEX_FILE, IndexPart, shard_index_path, write_index
from convnext_imagenet.records.manifest import Manifest, ShardEntry, SplitEntry
from convnext_imagenet.records.report.write import REPORT_FILE, write_report
from convnext_imagenet.records.schema import SCHEMA_VERSION
from convnext_imagenet.records.thumbnails import thumbnails_per_class


def write_closing_files(out: Path, manifest: Manifest, bad: Sequence[Quarantined]) -> dict[str, str]:
    """Write the three files into `out`; returns the SHA-256 of each by its name."""
    parts = [
        IndexPart(name, shard.name, shard_index_path(out / name / shard.name))
        for name, split in manifest.splits.items()
        for shard in split.shards
    ]
    write_atomically(out / QUARANTINE_FILE, table_bytes(bad))
    write_index(out / INDEX_FILE, parts, manifest.classes)
    write_report(out / REPORT_FILE, manifest, out / INDEX_FILE, parts, [asdict(entry) for entry in sorted(bad)])
    return {name: sha256_file(out / name) for name in (QUARANTINE_FILE, INDEX_FILE, REPORT_FILE)}


@dataclass(frozen=True)
class Unit:
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
class Outcome:
    """What a finished ingest stored: rows by split, and the images that it did not store."""

    rows: dict[str, int]
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True)
class Build:
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

    def unfinished(self) -> list[Unit]:
        """The shards without a valid receipt of this plan."""
        units = (Unit(split, index) for split in self.plan.splits for index in range(split.shard_count))
        return [unit for unit in units if self._receipt(unit) is None]

    def write(
        self,
        units: list[Unit],
        executor: Executor,
        on_progress: OnProgress,
        on_unit: Callable[[], None] = lambda: None,
    ) -> None:
        """Write the shards where `executor` runs them; `on_progress` hears of images read, `on_unit` of shards."""
        folder = staging(self.out)
        tasks = (self._task(unit, folder) for unit in units)
        executor.run(write_unit, tasks, len(units), on_progress, on_unit)

    def finish(self, allowed: int) -> Outcome:
        """Write quarantine, index and report, and mark the records as finished unless more than `allowed` are bad."""
        receipts = {split.name: self._receipts(split) for split in self.plan.splits}
        bad = [Quarantined(**entry) for each in receipts.values() for r in each for entry in r["facts"]["quarantined"]]
        reencoded = {name: sum(r["facts"]["reencoded"] for r in each) for name, each in receipts.items()}
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            plan_id=self.plan_id,
            classes=self.plan.classes,
            splits={split.name: self._split_entry(split, receipts[split.name]) for split in self.plan.splits},
            source=self.plan.source | {"treatment": self.plan.treatment.to_json(), "reencoded": reencoded},
            seed=self.plan.seed,
            versions=self.plan.versions,
        )
        manifest = dataclasses.replace(manifest, files=write_closing_files(self.out, manifest, bad))
        refuse_too_many(bad, allowed, self.out)
        _clear_leftovers(self.out, self.plan)
        finish(self.out, "records", manifest.to_json())
        forget_stamps(self.out)
        return Outcome({name: split.rows for name, split in manifest.splits.items()}, tuple(sorted(bad)))

    def _receipt(self, unit: Unit) -> dict[str, Any] | None:
        return read_receipt(self.out / unit.split.name, Path(unit.shard).stem, self.plan_id)

    def _receipts(self, split: SplitPlan) -> list[dict[str, Any]]:
        receipts = []
        for index, shard in enumerate(split.shard_names):
            if (receipt := self._receipt(Unit(split, index))) is None:
                raise IngestError(f"{self.out / split.name / shard}: not there; run the same command again to make it")
            receipts.append(receipt)
        return receipts

    def _split_entry(self, split: SplitPlan, receipts: list[dict[str, Any]]) -> SplitEntry:
        per_class: Counter[int] = Counter()
        for receipt in receipts:
            per_class.update({int(label): count for label, count in receipt["facts"]["rows_per_class"].items()})
        quarantined = sum(len(receipt["facts"]["quarantined"]) for receipt in receipts)
        if per_class.total() + quarantined != len(split.keys):
            raise RuntimeError(f"{split.name}: {per_class.total()} + {quarantined} of {len(split.keys)} accounted for")
        if not per_class.total():
            raise IngestError(f"{split.name}/: none of its {quarantined} images can be read; fetch them again")
        return SplitEntry(
            rows=per_class.total(),
            rows_per_class=tuple(per_class[entry.index] for entry in self.plan.classes),
            quarantined=quarantined,
            shards=tuple(_shard_entry(receipt) for receipt in receipts if receipt["files"]),
        )

    def _task(self, unit: Unit, folder: Path) -> ShardTask:
        return ShardTask(
            data=self.data,
            folder=self.out / unit.split.name,
            staging=folder / Path(unit.shard).stem,
            plan_id=self.plan_id,
            split=unit.split.name,
            shard=unit.shard,
            rows=unit.split.shard_rows(unit.index),
            largest_row_bytes=self.plan.treatment.largest_row_bytes(unit.split.largest_row_bytes),
            largest_shard_bytes=unit.split.largest_shard_bytes,
            follow_links=self.plan.source["follows_links"],
            treatment=self.plan.treatment,
            pictured=self._pictured if unit.split.name == "train" else frozenset(),
        )

    @cached_property
    def _pictured(self) -> frozenset[int]:
        """The train images that the report shows: a few of each class."""
        train = next(split for split in self.plan.splits if split.name == "train")
        return train.first_of_each_class(thumbnails_per_class(len(self.plan.classes)))


@contextlib.contextmanager
def open_build(plan: IngestPlan, data: Path, out: Path) -> Iterator[Build]:
    """Hold `out` for this plan; nothing half-written is left in it when the block ends, however it ends."""
    data, out = data.resolve(), out.resolve()
    if out == data or any(out.is_relative_to(data / split) for split in ("train", "val", "ILSVRC")):
        raise IngestError(f"--out {out}: lies inside the raw tree {data}; choose a directory outside")
    require_utf8(out)
    with exclusive(out):
        plan_id = begin(out, "records", plan.document)
        _clear_leftovers(out, plan)
        try:
            yield Build(plan, data, out, plan_id, forget_changed_shards(out, plan))
        finally:
            shutil.rmtree(staging(out), ignore_errors=True)


def _clear_leftovers(out: Path, plan: IngestPlan) -> None:
    """Remove what processes that were killed were writing."""
    for folder in (out, *(out / split.name for split in plan.splits)):
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)


def _shard_entry(receipt: dict[str, Any]) -> ShardEntry:
    data, index, _table = receipt["files"]
    return ShardEntry(
        name=data["name"],
        rows=receipt["facts"]["rows"],
        bytes=data["bytes"],
        sha256=data["sha256"],
        index_bytes=index["bytes"],
        index_sha256=index["sha256"],
    )
