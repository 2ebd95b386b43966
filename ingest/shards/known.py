"""Images that the records have already, by key and size, and that `--onto` does not store again: have they changed?

A file that is newer than the shard of its image is read and compared with the SHA-256 in the index; an older one is
not, because reading all would take as long as the first build (DECISIONS, 2026-11-30).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.labels.labels import LabelledSplit
from convnext_imagenet.ingest.shards.parent import Parent
from convnext_imagenet.ingest.shards.plan import IngestPlan, PlannedRow
from convnext_imagenet.ingest.shards.source_reader import SourceReader
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.index import INDEX_FILE, read_columns
from convnext_imagenet.records.schema import QUARANTINE_FILE


@dataclass(frozen=True)
class Newer:
    """A known image whose file is newer than its shard, and the SHA-256 of what is stored."""

    split: str
    row: PlannedRow
    sha256: str


def newer_images(plan: IngestPlan) -> list[Newer]:
    """Return the known images to compare: none if images are encoded again, because then no file has the stored bytes.

    An image without a known time counts as newer.
    """
    if plan.parent is None or not plan.image_policy.keeps_bytes:
        return []
    return [newer for split in plan.known if split.keys for newer in _newer_of(split, plan.parent)]


def count_quarantined(plan: IngestPlan) -> int:
    """Return how many of the known images are in quarantine in the records, so that they are not stored."""
    if plan.parent is None:
        return 0
    table = read_columns(plan.parent.root / QUARANTINE_FILE, ("split", "key"))
    bad = set(zip(table["split"].to_pylist(), table["key"].to_pylist(), strict=True))
    return sum((split.name, key) in bad for split in plan.known for key in split.keys) if bad else 0


def _newer_of(split: LabelledSplit, parent: Parent) -> Iterator[Newer]:
    import pyarrow.compute as pc  # only growing records pays for importing it

    shards = {entry.name: parent.root / split.name / entry.name for entry in parent.manifest.splits[split.name].shards}
    times = {name: path.stat().st_mtime_ns for name, path in shards.items()}
    modified = np.asarray(split.modified_ns, np.int64)
    positions = np.flatnonzero((modified == -1) | (modified >= min(times.values(), default=0)))
    if not len(positions):
        return
    index = read_columns(parent.root / INDEX_FILE, ("split", "key", "shard", "sha256"))
    index = index.filter(pc.equal(index["split"], split.name)).combine_chunks()
    keys = pa.array([split.keys[position] for position in positions], pa.string())
    places = pc.index_in(keys, value_set=index["key"]).to_pylist()
    for position, place in zip(positions.tolist(), places, strict=True):
        if place is None:  # it is in quarantine
            continue
        time = split.modified_ns[position]
        if time != -1 and time < times[index["shard"][place].as_py()]:
            continue
        row = PlannedRow(
            position,
            split.paths[position],
            split.keys[position],
            split.labels[position],
            split.sizes[position],
            split.offsets[position],
            time,
            container=split.containers[position],
        )
        yield Newer(split.name, row, index["sha256"][place].as_py())


def refuse_changed(newer: list[Newer], data: Path, follow_links: bool, on_progress: Callable[[int], None]) -> None:
    """Read these images; `on_progress` gets 1 for each.

    Raises IngestError for those that are stored with other bytes, FailedIngestError for one that cannot be read.
    """
    changed = []
    with SourceReader(data, follow_links) as reader:
        for image in newer:
            try:
                is_same = hashlib.sha256(reader.read(image.row)).hexdigest() == image.sha256
            except BadImage:
                is_same = False
            if not is_same:
                changed.append(f"{image.split}/{image.row.key}")
            on_progress(1)
    if changed:
        raise IngestError(
            f"{plural(len(changed), 'image')} stored with other bytes, of the same size: {first_few(changed)}; changed "
            f"images need another build, without --onto"
        )
