"""The table of all stored images: a Parquet file beside each shard, and `index.parquet` over all of them.

Equal rows give equal bytes: no times, no paths of this machine, and rows in stored order. Knows nothing of MindRecord.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import write_atomically
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import HOW_TO_REPAIR, Row

INDEX_FILE = "index.parquet"
_COMPRESSION = "zstd"
_ROWS_WITH_PICTURES = 4096  # of a row group: readers of the pictures hold one at a time, 9 MiB
_SHARD_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "sample_id": pa.int64(),
        "label": pa.int32(),
        "bytes": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
        "sha256": pa.string(),
        "warnings": pa.int32(),
        "thumbnail": pa.binary(),
    }
)
_SMALL = pa.field("small", pa.binary())  # only in records that were built with --fingerprints
_INDEX_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "label": pa.int32(),
        "wnid": pa.string(),
        "split": pa.string(),
        "shard": pa.string(),
        "row": pa.int32(),
        "sample_id": pa.int64(),
        "bytes": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "mode": pa.string(),
        "sha256": pa.string(),
        "warnings": pa.int32(),
    }
)

Jpeg = bytes  # a field of IndexEntry is called `bytes`
Levels = bytes


class IndexEntry(NamedTuple):
    """One stored image: `sha256` in hexadecimal, `mode` in Pillow's names, `bytes` is the size of the stored image.

    `warnings` counts what libjpeg warned of when the file was read. `thumbnail` is a small JPEG for the few images that
    the report shows, None for the others. `small` has the 48 x 48 gray levels of the picture for audits, None without.
    """

    key: str
    sample_id: int
    label: int
    bytes: int
    width: int
    height: int
    mode: str
    sha256: str
    warnings: int = 0
    thumbnail: Jpeg | None = None
    small: Levels | None = None


@dataclass(frozen=True)
class IndexPart:
    """The table of one shard at `path`, with its split and the file name of its shard."""

    split: str
    shard: str
    path: Path


def index_entry(
    row: Row, mode: str, warnings: int = 0, thumbnail: bytes | None = None, small: bytes | None = None
) -> IndexEntry:
    """Return the table entry of a stored row; `mode` is the colour mode of its image in Pillow's names."""
    digest = hashlib.sha256(row.image).hexdigest()
    sides, pictures = (row.width, row.height), (thumbnail, small)
    return IndexEntry(row.key, row.sample_id, row.label, len(row.image), *sides, mode, digest, warnings, *pictures)


def shard_index_path(shard: Path) -> Path:
    """Return the path of a shard's table: beside the shard, with the ending .parquet."""
    return shard.with_suffix(".parquet")


def write_shard_index(path: Path, entries: Sequence[IndexEntry], has_pictures: bool = False) -> None:
    """Write the table of one shard; `entries` are in the shard's row order. `has_pictures` adds the column `small`."""
    columns = dict(zip(IndexEntry._fields, zip(*entries, strict=True), strict=True))
    if not has_pictures:
        del columns[_SMALL.name]
        pq.write_table(pa.table(columns, schema=_SHARD_SCHEMA), path, compression=_COMPRESSION)
        return
    table = pa.table(columns, schema=_SHARD_SCHEMA.append(_SMALL))
    pq.write_table(
        table, path, compression=_COMPRESSION, row_group_size=_ROWS_WITH_PICTURES, use_dictionary=_SHARD_SCHEMA.names
    )


def write_index(
    path: Path,
    parts: Iterable[IndexPart],
    classes: Sequence[ClassEntry],
    relabelled: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write one table over all shards, a row group for each shard, with wnid, split, shard and row (0.. in the shard).

    `relabelled` has the class of the raw tree by split and key for images that were stored with another one. With it,
    the table has the column label_source: "source" or "relabelled from WNID".

    Raises ArtefactError when the table of a shard cannot be read.
    """
    wnids = pa.array([entry.wnid for entry in classes])
    buffer = io.BytesIO()
    schema = _INDEX_SCHEMA if relabelled is None else _INDEX_SCHEMA.append(pa.field("label_source", pa.string()))
    with pq.ParquetWriter(buffer, schema, compression=_COMPRESSION) as writer:
        for part in parts:
            rows = _index_rows(part, wnids)
            if relabelled is not None:
                before = relabelled.get(part.split, {})
                sources = [
                    f"relabelled from {before[key]}" if key in before else "source" for key in rows["key"].to_pylist()
                ]
                rows = rows.append_column(schema.field("label_source"), pa.array(sources, pa.string()))
            writer.write_table(rows)
    write_atomically(path, buffer.getvalue())


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Return some columns of a shard's table or of index.parquet. Raises ArtefactError when it cannot be read."""
    try:
        return read_table(path, columns)
    except FileNotFoundError:
        raise ArtefactError(f"{path}: no such file; {HOW_TO_REPAIR}") from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ArtefactError(
            f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); {HOW_TO_REPAIR}"
        ) from None


def _index_rows(part: IndexPart, wnids: pa.Array) -> pa.Table:
    table = read_columns(part.path, [name for name in _SHARD_SCHEMA.names if name != "thumbnail"])
    rows = table.num_rows
    columns = {name: table[name] for name in table.column_names} | {
        "wnid": wnids.take(table["label"].combine_chunks()),
        "split": pa.repeat(part.split, rows),
        "shard": pa.repeat(part.shard, rows),
        "row": pa.array(range(rows), pa.int32()),
    }
    return pa.table([columns[name] for name in _INDEX_SCHEMA.names], schema=_INDEX_SCHEMA)
