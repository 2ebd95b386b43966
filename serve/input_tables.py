"""A column of a Parquet, Arrow or Feather file as inputs: image bytes, or paths of image files."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.records.files import sha256_json
from convnext_imagenet.records.images import LARGEST_FILE_BYTES, BadImage
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.input_files import read_file, source_text
from convnext_imagenet.serve.inputs import Item

TABLE_ENDINGS = (".parquet", ".arrow", ".feather")
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Column:
    """One column of a table file; a struct of `bytes` and `path`, as Hugging Face stores images, counts as bytes."""

    path: Path
    column: str
    count: int
    sha256: str
    is_paths: bool

    def items(self, numbers: range) -> Iterator[Item]:
        """The rows with these numbers; only the row groups that hold them are read, a few hundred rows at a time."""
        first = 0
        for group, rows in enumerate(_group_rows(self.path)):
            if numbers.start < first + rows and first < numbers.stop:
                values = enumerate(_values(self.path, group, self.column), first)
                yield from (self._item(number, value) for number, value in values if number in numbers)
            first += rows

    def is_inside(self, path: Path) -> bool:
        """Never: nothing is added to a table."""
        return False

    def _item(self, number: int, value: Any) -> Item:
        if isinstance(value, dict):
            name, value = value.get("path"), value.get("bytes")
            return Item(name or self._name(number), partial(_checked, value))
        if self.is_paths:
            if value is None:
                return Item(self._name(number), partial(_checked, None))
            return Item(source_text(value), partial(read_file, self.path.parent / value))
        return Item(self._name(number), partial(_checked, value))

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
    count = sum(_group_rows(path))
    if not count:
        raise ServeError(f"{path}: holds no rows; nothing to predict")
    return Column(path, name, count, _fingerprint(path, name), _is_text(usable[name].type))


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


def _values(path: Path, group: int, column: str) -> Iterator[Any]:
    if _is_parquet(path):
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False)
            yield from (value.as_py() for batch in batches for value in batch.column(0))
        return
    yield from (value.as_py() for value in _arrow_file(path).get_batch(group).column(column))


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
        return kind.get_field_index("bytes") >= 0 and _is_usable(kind.field("bytes").type)
    return _is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _checked(value: bytes | None) -> bytes:
    if value is None:
        raise BadImage("empty", "the table holds no value here")
    if len(value) > LARGEST_FILE_BYTES:
        raise BadImage("too_large", f"{len(value)} bytes, at most {LARGEST_FILE_BYTES} are read")
    return bytes(value)
