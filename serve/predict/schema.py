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
ROWS_VERSION = 2
_GUESS = pa.struct([("class_index", pa.int32()), ("wnid", pa.string()), ("name", pa.string()), ("score", pa.float32())])
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("orientation", pa.int8()),
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
CALIBRATED = ("calibrated_score", "conformal_set")  # the columns of --calibration
_EXTRAS = {
    "features": pa.list_(pa.float32()),
    "unit_features": pa.list_(pa.float32()),
    "logits": pa.list_(pa.float32()),
    "loss": pa.float64(),
    "margin": pa.float32(),
    "entropy": pa.float32(),
    "energy": pa.float32(),
    "max_logit": pa.float32(),
    "calibrated_score": pa.float32(),
    "conformal_set": pa.list_(pa.int32()),
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


def row_bytes(topk: int, floats: int) -> int:
    """Return about how many bytes a row takes in memory, with `topk` classes and `floats` features and logits."""
    return 1024 + 64 * topk + 4 * floats


def make_row(sample: Sample, scored: ScoredSample | None) -> dict[str, Any]:
    """Return the row of one input; without scores, their columns are null, and so are those of a label without one."""
    info = sample.info
    guesses = None if scored is None else scored.guesses
    best = guesses[0] if guesses else {}
    if best and not best["wnid"]:  # a network whose classes have no names
        guesses = [{**guess, "wnid": None} for guess in guesses or ()]
    is_known = sample.label is not None and scored is not None
    return {
        "sample_id": sample.sample_id,
        "source": sample.source,
        "sha256": sample.sha256,
        "width": info and info.width,
        "height": info and info.height,
        "mode": info and info.mode,
        "orientation": sample.orientation,
        "status": sample.status,
        "error": sample.error,
        "top1_index": best.get("class_index"),
        "top1_wnid": best.get("wnid") or None,
        "top1_name": best.get("name"),
        "top1_score": best.get("score"),
        "topk": guesses,
        "label": sample.label,
        "correct": best.get("class_index") == sample.label if is_known else None,
        "features": scored and scored.features,
        "unit_features": scored and scored.unit_features,
        "logits": scored and scored.logits,
        "loss": scored and scored.loss,
        **(scored.measures if scored else {}),
        **{kept_name(name): value for name, value in sample.kept.items()},
    }


def part_schema(extras: Sequence[str] = (), kept: pa.Schema | None = None, has_classes: bool = True) -> pa.Schema:
    """Return the columns of a part: ours, the `extras` that were asked for, and those of the inputs.

    A network without classes has no columns about them.
    """
    ours = [field for field in SCHEMA if has_classes or field.name not in _OF_CLASSES]
    fields = [*ours, *(pa.field(name, _EXTRAS[name]) for name in extras)]
    return pa.schema([*fields, *(each.with_name(kept_name(each.name)) for each in kept or ())])


def kept_name(name: str) -> str:
    """Return the name in PREDICTIONS of a column of the inputs: a name that we use gets a prefix."""
    return f"input_{name}" if name in SCHEMA.names or name in _EXTRAS else name


def rows_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table: a twentieth of the memory that they take as Python objects."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_part(path: Path, tables: Sequence[pa.Table], provenance: Mapping[str, Any]) -> None:
    """Write the rows of `tables` as one part: one row group, zstd, statistics, a checksum on every page.

    `provenance` becomes JSON metadata. Raises OSError.
    """
    text = json.dumps(provenance, sort_keys=True, ensure_ascii=True, allow_nan=False)
    # combined, because the pages of a file follow the chunks of its table: the bytes must not depend on the batches
    table = pa.concat_tables(tables).combine_chunks().replace_schema_metadata({METADATA_KEY: text})
    pq.write_table(
        table,
        path,
        row_group_size=max(1, len(table)),
        compression="zstd",
        write_statistics=True,
        write_page_checksum=True,
    )
