"""Whether source files changed between two runs of one ingest, as far as their sizes do not tell.

Times of modification must not be part of the plan: a copy of the source gives the same records. So they are kept
beside it, one digest a shard, until the records are finished.
"""

import hashlib
from pathlib import Path

from convnext_imagenet.base.files import read_json, sync_folder, write_json
from convnext_imagenet.base.protocol import is_finished
from convnext_imagenet.ingest.shards.plan import IngestPlan, SplitPlan

_STAMPS_FILE = ".stamps.json"


def forget_changed_shards(out: Path, plan: IngestPlan) -> list[str]:
    """Drop the receipts of shards whose source files were modified since, and note the present state; their names.

    Receipts go before the note is renewed, so a crash in between loses no change.
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
    """Remove the note, once the records are finished."""
    (out / _STAMPS_FILE).unlink(missing_ok=True)


def _stamps(split: SplitPlan) -> dict[str, str]:
    """By shard, the SHA-256 of when its source files were modified and where they lie."""
    stamps = {}
    for index, shard in enumerate(split.shard_names):
        ids = split.sample_ids(index)
        columns = (split.modified_ns[ids], split.offsets[ids])
        stamps[shard] = hashlib.sha256(b"".join(column.astype("<i8").tobytes() for column in columns)).hexdigest()
    return stamps
