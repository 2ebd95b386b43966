"""A column of a Parquet, Arrow or Feather file as inputs: image bytes, or paths of image files."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.records.files import sha256_json
from convnext_imagenet.records.images import LARGEST_FILE_BYTES, BadImage
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.input_files import read_file, source_text
from convnext_imagenet.serve.inputs import Item

TABLE_ENDINGS = (".parquet", ".arrow", ".feather")
_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Column:
    """One column of a table file; a struct of `bytes` and `path`, as Hugging Face stores images, counts as bytes."""

    path: Path
    column: str
    group_rows: tuple[int, ...]
    sha256: str
    is_paths: bool

    @property
    def count(self) -> int:
        """How many rows the table has."""
        return sum(self.group_rows)

    def items(self, numbers: range) -> Iterator[Item]:
        """The rows with these numbers; only the row groups that hold them are read, a few hundred rows at a time."""
        first = 0
        for group, rows in enumerate(self.group_rows):
            wanted = range(max(numbers.start - first, 0), min(numbers.stop - first, rows))
            if wanted:
                values = _values(self.path, group, self.column, wanted)
                yield from (self._item(number, value) for number, value in enumerate(values, first + wanted.start))
            first += rows

    def is_inside(self, path: Path) -> bool:
        """Never: nothing is added to a table."""
        return False

    def _item(self, number: int, value: pa.Scalar) -> Item:
        name = None
        if isinstance(value, pa.StructScalar):
            name, value = _path_of(value), value["bytes"] if value.is_valid else pa.scalar(None, pa.binary())
        data = value.as_buffer()
        if self.is_paths and data is not None:
            path = data.to_pybytes()
            return Item(source_text(path), partial(read_file, self.path.parent / os.fsdecode(path)))
        return Item(name or self._name(number), partial(_checked, data))

    def _name(self, number: int) -> str:
        return f"{source_text(self.path.name)}#{number}"


def open_table(path: Path, column: str = "") -> Column:
    """The column of that name, or the only one that can hold images; ServeError names the columns there are."""
    usable = {field.name: field for field in _schema(path) if _is_usable(field.type)}
    if not column and len(usable) > 1:
        binary = [name for name, field in usable.items() if not _is_text(field.type)]
        column = binary[0] if len(binary) == 1 else ""
    name = column or (next(iter(usable)) if len(usable) == 1 else "")
    if name not in usable:
        asked = (
            f"no column {column!r} of image bytes or paths" if column else "cannot tell which column holds the images"
        )
        raise ServeError(
            f"{path}: {asked}; choose by --column among: {', '.join(usable) or 'none of its columns fits'}"
        )
    group_rows = tuple(_group_rows(path))
    if not sum(group_rows):
        raise ServeError(f"{path}: holds no rows; nothing to predict")
    return Column(path, name, group_rows, _fingerprint(path, name), _is_text(usable[name].type))


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path) if _is_parquet(path) else _arrow_file(path).schema
    except (OSError, pa.ArrowException) as error:
        raise ServeError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from None


def _group_rows(path: Path) -> list[int]:
    """The rows of each row group of a Parquet file, or of each record batch of an Arrow file."""
    if _is_parquet(path):
        metadata = pq.read_metadata(path)
        return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    file = _arrow_file(path)
    return [file.get_batch(group).num_rows for group in range(file.num_record_batches)]


def _values(path: Path, group: int, column: str, wanted: range) -> Iterator[pa.Scalar]:
    """The values of the rows `wanted` of a row group, counted from its first; ServeError where they are damaged."""
    try:
        if not _is_parquet(path):
            yield from _arrow_file(path).get_batch(group).column(column)[wanted.start : wanted.stop]
            return
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:  # else a group is read at once
            first = 0
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False):
                yield from batch.column(0)[max(wanted.start - first, 0) : max(wanted.stop - first, 0)]
                first += len(batch)
                if first >= wanted.stop:
                    return
    except (OSError, pa.ArrowException) as error:
        raise ServeError(f"{path}: cannot be read as a table ({' '.join(str(error).split())})") from None


def _arrow_file(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _fingerprint(path: Path, column: str) -> str:
    """Size and last bytes: Parquet and Arrow keep places, counts and statistics of all columns at the end."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 20)))
        end = hashlib.sha256(file.read()).hexdigest()
    return sha256_json({"bytes": size, "end": end, "column": column})


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_usable(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_text(kind) or _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _path_of(value: pa.StructScalar) -> str | None:
    """The `path` of an image, where there is one."""
    if not value.is_valid or value.type.get_field_index("path") < 0 or not _is_text(value["path"].type):
        return None
    path = value["path"].as_buffer()
    return source_text(path.to_pybytes()) if path else None


def _checked(data: pa.Buffer | None) -> bytes:
    if data is None:
        raise BadImage("empty", "the table holds no value here")
    if data.size > LARGEST_FILE_BYTES:
        raise BadImage("too_large", f"{data.size} bytes, at most {LARGEST_FILE_BYTES} are read")
    return data.to_pybytes()
