"""Finds source files that changed between two runs of one ingest but kept their size.

Modification times must not be part of the plan, because a copy of the source must give the same records. So they are
kept beside it, one digest for each shard (DECISIONS, 2026-11-23 and 2026-11-29). Opens no source file.
"""

import hashlib
from pathlib import Path

from convnext_imagenet.base.files import read_json, write_json
from convnext_imagenet.base.protocol import drop_receipt
from convnext_imagenet.ingest.shards.plan import IngestPlan, SplitPlan

_STAMPS_FILE = ".stamps.json"


def changed_shards(out: Path, plan: IngestPlan) -> list[tuple[str, str]]:
    """Return split and name of each shard whose source files have changed since the note; none without a note.

    Raises ArtefactError when the note is damaged.
    """
    path = out / _STAMPS_FILE
    if not path.exists():
        return []
    before = read_json(path)
    now = {split.name: _stamps(split) for split in plan.splits}
    return [(split, shard) for split in now for shard, stamp in now[split].items() if before[split][shard] != stamp]


def forget_changed_shards(out: Path, plan: IngestPlan) -> list[str]:
    """Remove the receipts of shards whose source files have changed, note the present times, return the shards' names.

    Receipts are removed before the note is renewed, so a crash in between loses no change. Raises ArtefactError when
    the note is damaged.
    """
    forgotten = []
    for split, shard in changed_shards(out, plan):
        if (out / split / shard).with_suffix(".json").exists():
            drop_receipt(out / split, Path(shard).stem)
            forgotten.append(shard)
    write_json(out / _STAMPS_FILE, {split.name: _stamps(split) for split in plan.splits})
    return forgotten


def _stamps(split: SplitPlan) -> dict[str, str]:
    """Return for each shard the SHA-256 of the modification times and offsets of its source files."""
    stamps = {}
    for index, shard in enumerate(split.shard_names):
        ids = split.sample_ids(index)
        columns = (split.modified_ns[ids], split.offsets[ids])
        stamps[shard] = hashlib.sha256(b"".join(column.astype("<i8").tobytes() for column in columns)).hexdigest()
    return stamps
