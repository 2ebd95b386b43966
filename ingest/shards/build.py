"""From a plan to a RECORDS directory: has the missing shards written, and marks the directory as finished.

Opens no image; how a shard is written is in `shard_writer.py`, where it is written is up to the executor.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.files import remove_leftovers, require_utf8
from convnext_imagenet.base.protocol import (
    begin,
    drop_receipt,
    exclusive,
    is_finished,
    read_receipt,
    reopen,
    staging,
)
from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.shards.plan import IngestPlan, SplitPlan
from convnext_imagenet.ingest.shards.quarantine import refuse_none_stored, refuse_too_many
from convnext_imagenet.ingest.shards.shard_writer import ShardTask, write_unit
from convnext_imagenet.ingest.shards.source_stamps import changed_shards, forget_changed_shards
from convnext_imagenet.launch.executor import Executor, OnProgress
from convnext_imagenet.records.build import SUMMARY_FILES, make_manifest, mark_finished, write_summary_files
from convnext_imagenet.records.damage import damaged_units, summary_damage
from convnext_imagenet.records.index import INDEX_FILE, read_columns
from convnext_imagenet.records.manifest import Manifest, SplitEntry
from convnext_imagenet.records.quarantine import Quarantined, quarantined_in, table_bytes
from convnext_imagenet.records.receipts import split_entry
from convnext_imagenet.records.report.numbers import count_shared

Receipts = Mapping[str, Sequence[Mapping[str, Any]]]  # the receipts of all shards, in order, by split


@contextlib.contextmanager
def open_build(plan: IngestPlan, data: Path, out: Path, repair: bool = False) -> "Iterator[RecordsBuild]":
    """Lock `out` for this plan; remove everything half-written when the block ends, even by an exception.

    Finished records stay as they are unless `repair` allows to change them. Raises IngestError when `out` is inside the
    raw tree, ArtefactError when it contains something else, belongs to another plan, or is locked by another process.
    """
    data, out = data.resolve(), out.resolve()
    is_class_there = plan.source.get("labels") == "as given" and out.is_relative_to(data)
    if out == data or is_class_there or any(out.is_relative_to(data / name) for name in ("train", "val", "ILSVRC")):
        raise IngestError(f"--out {out}: is inside the raw tree {data}; choose a directory outside of it")
    require_utf8(out)
    with exclusive(out):
        plan_id = begin(out, "records", plan.document)
        _clear_leftovers(out, plan)
        keeps = is_finished(out) and not repair
        outdated = [shard for _, shard in changed_shards(out, plan)] if keeps else _forget_outdated(out, plan)
        try:
            yield RecordsBuild(plan, data, out, plan_id, outdated)
        finally:
            shutil.rmtree(staging(out), ignore_errors=True)


def _forget_outdated(out: Path, plan: IngestPlan) -> list[str]:
    """Return the shards whose source files have changed; their receipts are removed, and before that any mark."""
    if is_finished(out) and changed_shards(out, plan):
        reopen(out)
    return forget_changed_shards(out, plan)


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
    """The result of a finished ingest: rows by split, and the images that were not stored.

    `warned` counts stored images of which libjpeg warned, `shared` the sets of exact copies over several splits.
    """

    rows: dict[str, int]
    quarantined: tuple[Quarantined, ...]
    warned: int
    shared: int


@dataclass(frozen=True)
class RecordsBuild:
    """An unfinished RECORDS directory that is locked against other writers; `open_build` makes it.

    `outdated` are shards whose source files have changed since they were written.
    """

    plan: IngestPlan
    data: Path
    out: Path
    plan_id: str
    outdated: Sequence[str] = ()

    @property
    def shards(self) -> int:
        """The number of shards of all splits."""
        return sum(split.shard_count for split in self.plan.splits)

    @property
    def is_finished(self) -> bool:
        """Whether the directory is marked as finished."""
        return is_finished(self.out)

    def inherit(self) -> int:
        """Link the shards of the records that this plan adds to; return how many were not there yet.

        Raises IngestError when one of them has changed.
        """
        if self.plan.parent is None:
            return 0
        missing = self.plan.parent.missing_in(self.out, self.plan_id)
        if missing:
            reopen(self.out)
            self.plan.parent.link(missing, self.out, self.plan_id)
        return len(missing)

    def unfinished(self) -> list[ShardUnit]:
        """Return the shards without a valid receipt of this plan."""
        return [unit for unit in self._units() if self._receipt(unit) is None]

    def _units(self) -> Iterator[ShardUnit]:
        return (ShardUnit(split, index) for split in self.plan.splits for index in range(split.shard_count))

    def summary_damage(self) -> list[str]:
        """Return what is wrong with the files beside the splits of finished records."""
        return summary_damage(self.out)

    def forget_damaged(self, on_progress: OnProgress) -> list[str]:
        """Remove the receipts of shards whose bytes are not the recorded ones, and the mark if anything is damaged.

        Returns what is damaged, in words. `on_progress` gets 1 for each shard.
        """
        damage = summary_damage(self.out) if self.is_finished else []
        shards = [(unit.split.name, unit.shard) for unit in self._units()]
        if self.plan.parent is not None:
            shards += self.plan.parent.units
        damaged = damaged_units(self.out, self.plan_id, shards, on_progress)
        if damage or damaged:
            reopen(self.out)
        for split, shard in damaged:
            drop_receipt(self.out / split, Path(shard).stem)
        unexpected = (unit for unit in damaged if unit[1] not in self.outdated)
        return [*damage, *(f"{self.out / split / shard}: missing or damaged" for split, shard in unexpected)]

    def write(
        self,
        units: list[ShardUnit],
        executor: Executor,
        on_progress: OnProgress,
        on_unit: Callable[[], None] = lambda: None,
    ) -> None:
        """Write the shards in the processes of `executor`.

        `on_progress` gets the number of images read, `on_unit` is called after each shard. Raises FailedIngestError
        when the source, a worker or the disk fails; finished shards are kept.
        """
        folder = staging(self.out)
        tasks = (self._task(unit, folder) for unit in units)
        executor.run(write_unit, tasks, len(units), on_progress, on_unit)

    def finish(self, allowed: int) -> BuildOutcome:
        """Write quarantine, index and report, and mark the records as finished.

        Raises QuarantineError when more than `allowed` images are bad; by then the three files exist and show which
        (DECISIONS, 2026-11-23). Raises IngestError when a shard is missing, or no image of a split can be read.
        """
        inherited = self.plan.parent.receipts_in(self.out, self.plan_id) if self.plan.parent else {}
        receipts = {split.name: [*inherited.get(split.name, []), *self._receipts(split)] for split in self.plan.splits}
        quarantined = quarantined_in(receipt for split in receipts.values() for receipt in split)
        manifest = self._manifest(receipts)
        rows = [asdict(entry) for entry in quarantined]
        manifest = write_summary_files(self.out, manifest, table_bytes(quarantined), rows)
        refuse_too_many([entry for entry in quarantined if entry.reason != "dropped"], allowed, self.out)
        _clear_leftovers(self.out, self.plan)
        mark_finished(self.out, manifest)
        if self.plan.parent is not None:
            self.plan.parent.hand_on_checks(self.out, manifest)
        index = read_columns(self.out / INDEX_FILE, ("split", "sha256", "warnings"))
        return BuildOutcome(
            rows={name: split.rows for name, split in manifest.splits.items()},
            quarantined=tuple(quarantined),
            warned=int((index["warnings"].to_numpy() > 0).sum()),
            shared=count_shared(index),
        )

    def _manifest(self, receipts: Receipts) -> Manifest:
        reencoded = {name: sum(receipt["facts"]["reencoded"] for receipt in split) for name, split in receipts.items()}
        return make_manifest(
            self.plan_id,
            self.plan.classes,
            {split.name: self._split_entry(split, receipts[split.name]) for split in self.plan.splits},
            self.plan.source
            | {"treatment": self.plan.image_policy.to_json(), "reencoded": reencoded, "junk": self.plan.junk},
            self.plan.seed,
            self.plan.versions,
        )

    def _split_entry(self, split: SplitPlan, receipts: Sequence[Mapping[str, Any]]) -> SplitEntry:
        entry = split_entry(receipts, len(self.plan.classes))
        images = split.first_id + len(split.keys)
        if entry.rows + entry.quarantined != images:
            raise RuntimeError(
                f"{split.name}: {entry.rows} stored + {entry.quarantined} quarantined images are not {images}"
            )
        if not entry.rows:
            refuse_none_stored(split.name, quarantined_in(receipts))
        return entry

    def _receipts(self, split: SplitPlan) -> list[dict[str, Any]]:
        receipts = []
        for index, shard in enumerate(split.shard_names):
            if (receipt := self._receipt(ShardUnit(split, index))) is None:
                raise IngestError(f"{self.out / split.name / shard}: missing; run the same command again to write it")
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
            pictured=self.plan.pictured(unit.split.name),
            dropped=unit.split.dropped,
            layout=self.plan.parent.layouts[unit.split.name] if self.plan.parent else None,
        )


def refuse_stale(job: RecordsBuild) -> None:
    """Raise IngestError when finished records are not what the source is now, or only lack a file beside the splits."""
    if job.outdated:
        raise IngestError(
            f"{job.out}: finished, but source files of {plural(len(job.outdated), 'shard')} have changed since (same "
            f"size, other modification time): {first_few(job.outdated)}; pass --repair to write these shards again, or "
            f"choose another directory"
        )
    missing = [name for name in SUMMARY_FILES if not (job.out / name).is_file()]
    if missing and not job.unfinished():
        raise IngestError(f"{job.out}: finished, but {first_few(missing)} is missing; pass --repair to write it again")


def _clear_leftovers(out: Path, plan: IngestPlan) -> None:
    """Remove temporary files of killed processes."""
    for folder in (out, *(out / split.name for split in plan.splits)):
        remove_leftovers(folder)
