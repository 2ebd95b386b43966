"""What differs between two RECORDS directories, row by row, from their indexes alone: no shard is opened."""

import io
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.records.places import Place, index_bytes

CHANGES = ("added", "removed", "relabelled", "changed")
_ROW = ["split", "key"]
_COMPARED = ["wnid", "sha256"]


def compare_records(before: Place, after: Place) -> pa.Table:
    """Return a row for each image that differs: change, split, key, and wnid and sha256 before and after (or null).

    `relabelled` has another class, `changed` other bytes in the same class; an image that moved to another split is
    removed from one and added to the other. Raises ArtefactError for records that cannot be read.
    """
    joined = _rows(before).join(
        _rows(after), keys=_ROW, join_type="full outer", left_suffix="_before", right_suffix="_after"
    )
    is_new, is_gone = pc.is_null(joined["sha256_before"]), pc.is_null(joined["sha256_after"])
    has_other_class = pc.not_equal(joined["wnid_before"], joined["wnid_after"])
    has_other_bytes = pc.not_equal(joined["sha256_before"], joined["sha256_after"])
    change = pc.case_when(pc.make_struct(is_new, is_gone, has_other_class, has_other_bytes), *CHANGES)
    found = joined.append_column("change", change).filter(pc.is_valid(change))
    names = ["change", *_ROW, *(f"{name}_{side}" for name in _COMPARED for side in ("before", "after"))]
    return found.select(names).sort_by([(name, "ascending") for name in ("change", *_ROW)]).combine_chunks()


def counts_of(table: pa.Table) -> dict[str, dict[str, int]]:
    """Return for each split with differences, in the order of their names, how many rows have each of `CHANGES`."""
    counts = Counter(zip(table["split"].to_pylist(), table["change"].to_pylist(), strict=True))
    return {split: {change: counts[split, change] for change in CHANGES} for split in sorted({s for s, _ in counts})}


def table_bytes(table: pa.Table) -> bytes:
    """Return the rows as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _rows(place: Place) -> pa.Table:
    data = index_bytes(place, place.manifest())
    return read_table(pa.BufferReader(data), [*_ROW, *_COMPARED])
