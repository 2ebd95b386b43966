"""The format of a part of PREDICTIONS: columns, rows, and a way of writing that makes equal rows equal bytes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.protocol import bookkeeping_name
from convnext_imagenet.serve.samples import Sample
from convnext_imagenet.serve.scoring import ScoredSample

METADATA_KEY = "convnext_imagenet"
# Raise if the same output of the network becomes another row: ranking, scores, columns, error texts, Parquet options
# (DECISIONS, 2026-11-28).
ROWS_VERSION = 1
_GUESS = pa.struct([("class_index", pa.int32()), ("wnid", pa.string()), ("name", pa.string()), ("score", pa.float32())])
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("top1_index", pa.int32()),
        pa.field("top1_wnid", pa.string()),
        pa.field("top1_name", pa.string()),
        pa.field("top1_score", pa.float32()),
        pa.field("topk", pa.list_(_GUESS)),
        pa.field("label", pa.int32()),
        pa.field("correct", pa.bool_()),
    ]
)
_EXTRAS = {
    "features": pa.list_(pa.float32()),
    "unit_features": pa.list_(pa.float32()),
    "logits": pa.list_(pa.float32()),
    "loss": pa.float64(),
}
# Columns about classes, which a network without a classifier does not have.
_OF_CLASSES = ("top1_index", "top1_wnid", "top1_name", "top1_score", "topk", "correct")


def part_unit(index: int) -> str:
    """Return the name of part `index` (from 0) in receipts and messages."""
    return bookkeeping_name("predictions", Path(part_file(index)).stem)


def part_file(index: int) -> str:
    """Return the file name of part `index` (from 0)."""
    return f"part-{index:05d}.parquet"


def part_ranges(count: int, first_rows: int, most_rows: int) -> list[range]:
    """Return the inputs of each part: `first_rows` in the first, each next part twice as many, up to `most_rows`.

    So the first rows can be read within seconds, and a long job still ends with few files (DECISIONS, 2026-11-26).
    """
    parts, first, rows = [], 0, min(first_rows, most_rows)
    while first < count:
        parts.append(range(first, min(first + rows, count)))
        first, rows = first + rows, min(2 * rows, most_rows)
    return parts


def make_row(sample: Sample, scored: ScoredSample | None) -> dict[str, Any]:
    """Return the row of one input; without scores, their columns are null, and so are those of a label without one."""
    info = sample.info
    guesses = None if scored is None else scored.guesses
    best = guesses[0] if guesses else {}
    is_known = sample.label is not None and scored is not None
    return {
        "sample_id": sample.sample_id,
        "source": sample.source,
        "sha256": sample.sha256,
        "width": info and info.width,
        "height": info and info.height,
        "mode": info and info.mode,
        "status": sample.status,
        "error": sample.error,
        "top1_index": best.get("class_index"),
        "top1_wnid": best.get("wnid"),
        "top1_name": best.get("name"),
        "top1_score": best.get("score"),
        "topk": guesses,
        "label": sample.label,
        "correct": best.get("class_index") == sample.label if is_known else None,
        "features": scored and scored.features,
        "unit_features": scored and scored.unit_features,
        "logits": scored and scored.logits,
        "loss": scored and scored.loss,
    }


def write_part(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    extras: Sequence[str] = (),
    has_classes: bool = True,
) -> None:
    """Write one part: one row group, zstd, a checksum on every page, statistics, provenance as JSON metadata.

    `extras` are additional columns: "features", the pooled features before the head, "unit_features", the same of
    length 1, "logits", and "loss", the cross entropy with the label. A network without classes has no columns about
    them. Raises OSError.
    """
    text = json.dumps(provenance, sort_keys=True, ensure_ascii=True, allow_nan=False)
    fields = [field for field in SCHEMA if has_classes or field.name not in _OF_CLASSES]
    schema = pa.schema([*fields, *(pa.field(name, _EXTRAS[name]) for name in extras)], {METADATA_KEY: text})
    table = pa.Table.from_pylist(list(rows), schema=schema)
    pq.write_table(
        table,
        path,
        row_group_size=max(1, len(rows)),
        compression="zstd",
        write_statistics=True,
        write_page_checksum=True,
    )
