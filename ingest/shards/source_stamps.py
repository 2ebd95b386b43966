"""Finds source files that changed between two runs of one ingest but kept their size.

Modification times must not be part of the plan, because a copy of the source must give the same records. So they are
kept beside it, one digest for each shard, until the records are finished (DECISIONS, 2026-11-23). Opens no source file.
"""

import hashlib
from pathlib import Path

from convnext_imagenet.base.files import read_json, sync_folder, write_json
from convnext_imagenet.base.protocol import is_finished
from convnext_imagenet.ingest.shards.plan import IngestPlan, SplitPlan

_STAMPS_FILE = ".stamps.json"


def forget_changed_shards(out: Path, plan: IngestPlan) -> list[str]:
    """Remove the receipts of shards whose source files have changed, note the present times, return the shards' names.

    Receipts are removed before the note is renewed, so a crash in between loses no change. Raises ArtefactError when
    the note is damaged.
    """
    path = out / _STAMPS_FILE
    if is_finished(out):
        path.unlink(missing_ok=True)
        return []
    now = {split.name: _stamps(split) for split in plan.splits}
    before = read_json(path) if path.exists() else now
    forgotten = []
    for split in plan.splits:
        for shard, stamp in now[split.name].items():
            receipt = (out / split.name / shard).with_suffix(".json")
            if before[split.name][shard] != stamp and receipt.exists():
                receipt.unlink()
                sync_folder(receipt.parent)
                forgotten.append(shard)
    write_json(path, now)
    return forgotten


def forget_stamps(out: Path) -> None:
    """Remove the note after the records are finished."""
    (out / _STAMPS_FILE).unlink(missing_ok=True)


def _stamps(split: SplitPlan) -> dict[str, str]:
    """Return for each shard the SHA-256 of the modification times and offsets of its source files."""
    stamps = {}
    for index, shard in enumerate(split.shard_names):
        ids = split.sample_ids(index)
        columns = (split.modified_ns[ids], split.offsets[ids])
        stamps[shard] = hashlib.sha256(b"".join(column.astype("<i8").tobytes() for column in columns)).hexdigest()
    return stamps
