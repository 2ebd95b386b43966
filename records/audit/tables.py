"""`pairs.parquet` and `rows.parquet` of an audit: names for numbers, the worst first. Equal rows, equal bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.records.audit.flags import KINDS, Flag, worst_first
from convnext_imagenet.records.audit.pairs import Pair
from convnext_imagenet.records.audit.sources import image_name

PAIRS_FILE, ROWS_FILE = "pairs.parquet", "rows.parquet"
_NAMES = ("split", "key", "sample_id", "label", "wnid")
_TYPES = (pa.string(), pa.string(), pa.int64(), pa.int32(), pa.string())
_PAIRS_SCHEMA = pa.schema(
    [(f"{name}_{side}", kind) for side in "ab" for name, kind in zip(_NAMES, _TYPES, strict=True)]
    + [("kind", pa.string()), ("distance", pa.float32()), ("same_split", pa.bool_()), ("same_label", pa.bool_())]
)
_ROWS_SCHEMA = pa.schema(
    [
        *zip(_NAMES, _TYPES, strict=True),
        ("kind", pa.string()),
        ("also", pa.list_(pa.string())),
        ("score", pa.float32()),
        ("suggested_label", pa.int32()),
        ("suggested_wnid", pa.string()),
        ("partner", pa.string()),
        ("proposal", pa.string()),
    ]
)


def write_pairs(path: Path, rows: pa.Table, pairs: Sequence[Pair]) -> None:
    """Write pairs.parquet: both images, kind and distance, the worst pair first. Raises OSError."""
    ordered = worst_first(rows, pairs)
    first = rows.take([pair.first for pair in ordered]) if ordered else rows.slice(0, 0)
    second = rows.take([pair.second for pair in ordered]) if ordered else rows.slice(0, 0)
    columns: dict[str, Any] = {}
    for side, table in (("a", first), ("b", second)):
        columns |= {f"{name}_{side}": table[name] for name in _NAMES}
    columns["kind"] = [pair.kind for pair in ordered]
    columns["distance"] = [pair.distance for pair in ordered]
    for name, column in (("same_split", "split"), ("same_label", "label")):
        pairs_of = zip(first[column].to_pylist(), second[column].to_pylist(), strict=True)
        columns[name] = [None if None in (a, b) else a == b for a, b in pairs_of]
    pq.write_table(pa.table(columns, schema=_PAIRS_SCHEMA), path, compression="zstd")


def write_rows(path: Path, rows: pa.Table, flags: Sequence[Flag], wnids: Sequence[str]) -> None:
    """Write rows.parquet: one row for each flagged image, by severity of its kind and score. Raises OSError."""
    ordered = sorted(flags, key=lambda flag: (_severity(flag), flag.score, flag.number))
    named = rows.take([flag.number for flag in ordered]) if ordered else rows.slice(0, 0)
    splits, keys = rows["split"], rows["key"]
    columns: dict[str, Any] = {name: named[name] for name in _NAMES}
    columns |= {
        "kind": [flag.kind for flag in ordered],
        "also": [list(flag.also) for flag in ordered],
        "score": [flag.score for flag in ordered],
        "suggested_label": [flag.suggested for flag in ordered],
        "suggested_wnid": [None if flag.suggested is None else wnids[flag.suggested] for flag in ordered],
        "partner": [
            None if flag.partner is None else image_name(splits[flag.partner].as_py(), keys[flag.partner].as_py())
            for flag in ordered
        ],
        "proposal": [flag.proposal for flag in ordered],
    }
    pq.write_table(pa.table(columns, schema=_ROWS_SCHEMA), path, compression="zstd")


def _severity(flag: Flag) -> int:
    return list(KINDS).index(flag.kind)
