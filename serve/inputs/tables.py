"""A column of a Parquet, Arrow or Feather file as inputs: image bytes, or paths of image files.

Reads a few hundred rows at a time, so a table may be larger than the memory. Arrow comes as a file, with a footer, or
as a stream, without one.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq

from convnext_imagenet.base.errors import ExpectedError
from convnext_imagenet.base.files import sha256_json
from convnext_imagenet.base.image_tables import STREAM_BEGIN, STREAM_END, holds_image_bytes, is_text, without_views
from convnext_imagenet.base.uris import one_line
from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage, too_large
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import read_beside, source_text
from convnext_imagenet.serve.inputs.inputs import Item, JoinedInputs, lies_in, split_range
from convnext_imagenet.serve.inputs.labels import NO_CLASSES, ClassLookup, label_reader
from convnext_imagenet.serve.inputs.storage import StoredFile, failed_store
from convnext_imagenet.serve.inputs.uris import check_named, names_uri, source_of

TABLE_ENDINGS = (".parquet", ".arrow", ".feather")
_BATCH_ROWS = 256  # at 110 kB an image, 28 MB in memory
_BUFFER_BYTES = 1 << 20  # read ahead in a column; the default reads the whole column of a row group
_FOOT_BYTES = 1 << 20  # of a table's end, enough for its metadata: hashing all of a table would read it twice


TABLE_ROW = "table_row"  # the column that says which row of which table an input was


@dataclass(frozen=True)
class Columns:
    """Which columns of a table to read: of the images (by default the only one that fits), to keep, with labels."""

    images: str = ""
    keep: tuple[str, ...] = ()
    label: str = ""
    classes: ClassLookup = NO_CLASSES


IMAGES = Columns()


@dataclass(frozen=True)
class TableInputs:
    """The rows of a table file.

    A struct of `bytes` and `path`, as Hugging Face stores images, gives its bytes, or else the file at its path. `kept`
    are the columns for PREDICTIONS, `label_of` makes a class index of a value of the column `label`.
    """

    path: StoredFile
    column: str
    group_rows: tuple[int, ...]
    sha256: str
    is_paths: bool
    stream_offsets: tuple[int, ...] = ()  # of the record batches of an Arrow stream
    folder: Path | None = None  # the folder that holds only this table, if any
    kept: pa.Schema = field(default_factory=lambda: pa.schema([]))
    keep: tuple[str, ...] = ()
    label: str = ""
    label_of: Callable[[Any], int | None] = lambda value: None

    @property
    def count(self) -> int:
        """Return the number of rows."""
        return sum(self.group_rows)

    def items(self, numbers: range) -> Iterator[Item]:
        """Yield the rows with these numbers; read only their row groups, a few hundred rows at a time.

        Raises ServeError for a row group that cannot be read.
        """
        for group, first, wanted in split_range(numbers, self.group_rows):
            rows = self._rows(group, wanted)
            yield from (self._item(number, row) for number, row in enumerate(rows, first + wanted.start))

    def check_uris(self) -> None:
        """Raise ServeError when one of the first rows names a URI that cannot be read."""
        first = next((group for group, rows in enumerate(self.group_rows) if rows), None)
        if first is None or not self.is_paths:
            return
        for row in self._rows(first, range(min(_BATCH_ROWS, self.group_rows[first]))):
            path, _ = self._path_and_bytes(row[0])
            if path is not None and names_uri(path):
                check_named(path, str(self.path))

    def is_inside(self, path: Path) -> bool:
        """Return whether `path` lies in the folder that holds only this table."""
        return lies_in(path, self.folder)

    @property
    def _columns(self) -> list[str]:
        """Return the columns to read: of the images, those to keep, and that of the label."""
        return [self.column, *self.keep, *([self.label] if self.label else [])]

    def _rows(self, group: int, wanted: range) -> Iterator[tuple[pa.Scalar, ...]]:
        """Yield the values of `_columns` in the rows `wanted` of a group, counted from its first.

        Raises ServeError for damaged ones.
        """
        try:
            if _is_parquet(self.path):
                yield from _parquet_rows(self.path, group, self._columns, wanted)
            else:
                yield from _batch_rows(self._arrow_batch(group), self._columns, wanted)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.path, error) from None

    def _arrow_batch(self, group: int) -> pa.RecordBatch:
        if not self.stream_offsets:
            return pa.ipc.open_file(self.path.open()).get_batch(group)
        with self.path.open() as file:
            schema = pa.ipc.read_schema(file)
            file.seek(self.stream_offsets[group])
            return pa.ipc.read_record_batch(pa.ipc.read_message(file), schema)

    def _item(self, number: int, row: tuple[pa.Scalar, ...]) -> Item:
        item = self._image(number, row[0])
        if not self.kept and not self.label:
            return item
        values = [value.as_py() for value in row[1:]]
        row_name = f"{source_text(self.path.name)}#{number}"
        kept = dict(zip(self.kept.names, [row_name, *values[: len(self.keep)]], strict=True)) if self.kept else {}
        return replace(item, kept=kept, label=self.label_of(values[-1]) if self.label else None)

    def _image(self, number: int, value: pa.Scalar) -> Item:
        path, data = self._path_and_bytes(value)
        shown = None if path is None else source_text(source_of(path))
        if path is not None and data is None:
            return Item(shown or "", partial(read_beside, self.path, path))
        source = f"{source_text(self.path.name)}#{number}" if shown is None else shown
        return Item(source, partial(_image_bytes, data))

    def _path_and_bytes(self, value: pa.Scalar) -> tuple[bytes | None, pa.Buffer | None]:
        if isinstance(value, pa.StructScalar):
            return (_path_of(value), value["bytes"].as_buffer()) if value.is_valid else (None, None)
        content = value.as_buffer()
        if not self.is_paths:
            return None, content
        return None if content is None else content.to_pybytes(), None


def open_tables(
    files: Sequence[StoredFile], columns: Columns = IMAGES, folder: Path | None = None
) -> TableInputs | JoinedInputs:
    """Return several tables as one; `folder` holds only them, if given. Some of them may have no rows.

    Raises what `open_table` raises.
    """
    tables = tuple(_open(file, columns) for file in files)
    if not any(table.count for table in tables):
        raise ServeError(
            f"{files[0] if len(files) == 1 else folder or files[0]}: holds no rows to predict; give another table"
        )
    for table in tables[1:]:
        if not table.kept.equals(tables[0].kept):
            raise ServeError(f"{table.path}: its columns to --keep have other types than those of {tables[0].path}")
    return replace(tables[0], folder=folder) if len(tables) == 1 else JoinedInputs(tables, folder)


def open_table(path: StoredFile, column: str = "") -> TableInputs:
    """Return the column of that name, or the only one that can hold images.

    Raises ServeError, which lists the possible columns, when the choice is not clear; also for a table without rows or
    one that cannot be read.
    """
    table = _open(path, Columns(column))
    if not table.count:
        raise ServeError(f"{path}: holds no rows to predict; give another table")
    return table


def _open(path: StoredFile, columns: Columns) -> TableInputs:
    """Return a table, which may have no rows. Raises ServeError."""
    try:
        schema = _schema(path)
        images = _choose_field(path, schema, columns.images)
        group_rows, stream_offsets = _groups(path)
        sha256 = _fingerprint(path, images.name)
        table = TableInputs(path, images.name, group_rows, sha256, _is_text(images.type), stream_offsets)
        table = _with_columns(table, schema, columns)
        table.check_uris()
        return table
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _with_columns(table: TableInputs, schema: pa.Schema, columns: Columns) -> TableInputs:
    """Return a table that also reads the columns to keep and that of the labels. Raises ServeError."""
    for name in (*columns.keep, *([columns.label] if columns.label else [])):
        if name not in schema.names:
            raise ServeError(f"{table.path}: no column {name!r}; it has: {', '.join(schema.names)}")
        _refuse_twice(table.path, schema, name)
    if not columns.keep and not columns.label:
        return table
    kept = pa.schema([])
    if columns.keep:
        fields = [schema.field(name) for name in columns.keep]
        for each in fields:
            if _is_usable(each.type) and not _is_text(each.type):
                raise ServeError(f"{table.path}: --keep {each.name!r} holds bytes; keep only what is small")
        kept = pa.schema([pa.field(TABLE_ROW, pa.string()), *(pa.field(f.name, f.type) for f in fields)])
    sha256 = sha256_json({"table": table.sha256, "keep": columns.keep, "label": columns.label})
    label_of = table.label_of
    if columns.label:
        label_of = label_reader(schema.field(columns.label), schema, columns.classes, str(table.path))
    return replace(table, kept=kept, keep=columns.keep, label=columns.label, label_of=label_of, sha256=sha256)


def _choose_field(path: StoredFile, schema: pa.Schema, column: str) -> pa.Field:
    usable = {each.name: each for each in schema if _is_usable(each.type)}
    binary = [name for name, each in usable.items() if not _is_text(each.type)]
    candidates = list(usable) if len(usable) == 1 else binary
    name = column or (candidates[0] if len(candidates) == 1 else "")
    if name in usable:
        _refuse_twice(path, schema, name)
        return usable[name]
    problem = f"no column {column!r} of image bytes or paths" if column else "not clear which column holds the images"
    if usable:
        raise ServeError(f"{path}: {problem}; pass --column with one of: {', '.join(usable)}")
    kinds = ", ".join(f"{each.name}: {_kind_in_words(each.type)}" for each in schema)
    raise ServeError(
        f"{path}: {problem}; it has {kinds or 'no columns'}, and neither bytes, {{bytes, path}} nor text; give another "
        f"table, or write the column as one of these"
    )


def _kind_in_words(kind: pa.DataType) -> str:
    """Return a type in a few words: what follows `<` may be as long as a schema."""
    return str(kind).partition("<")[0]


def _refuse_twice(path: StoredFile, schema: pa.Schema, name: str) -> None:
    """Raise ServeError if several columns have this name."""
    if (count := schema.names.count(name)) > 1:
        raise ServeError(f"{path}: {count} columns are named {name!r}; rename or drop all but one")


def _unreadable(path: StoredFile, error: Exception) -> ExpectedError:
    return failed_store(path, error) or ServeError(
        f"{path}: cannot be read as a table ({one_line(error)}); copy it again or remove it"
    )


def _schema(path: StoredFile) -> pa.Schema:
    if _is_parquet(path):
        return pq.read_schema(path.open())
    return pa.ipc.read_schema(path.open()) if _is_stream(path) else pa.ipc.open_file(path.open()).schema


def _groups(path: StoredFile) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the rows of each row group of a Parquet file, or record batch of Arrow; and of a stream their offsets."""
    if _is_parquet(path):
        metadata = pq.read_metadata(path.open())
        return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)), ()
    if not _is_stream(path):
        file = pa.ipc.open_file(path.open())
        return tuple(file.get_batch(group).num_rows for group in range(file.num_record_batches)), ()
    found = list(_stream_batches(path))
    return tuple(rows for _, rows in found), tuple(offset for offset, _ in found)


def _stream_batches(path: StoredFile) -> Iterator[tuple[int, int]]:
    """Yield offset and rows of each record batch of an Arrow stream; on this machine no values are read for it."""
    if path.read_at(path.size - len(STREAM_END), len(STREAM_END)) != STREAM_END:
        raise pa.ArrowInvalid("the stream has no end mark: it is truncated")  # maybe between two batches
    store = pa_fs.LocalFileSystem(use_mmap=True) if path.is_local else path.store
    with store.open_input_file(path.path) as file:
        schema, offset = pa.ipc.read_schema(file), file.tell()
        for message in iter(lambda: _next_message(file), None):
            yield offset, pa.ipc.read_record_batch(message, schema).num_rows
            offset = file.tell()


def _next_message(file: pa.NativeFile) -> pa.ipc.Message | None:
    try:
        return pa.ipc.read_message(file)
    except EOFError:
        return None


def _parquet_rows(
    path: StoredFile, group: int, columns: Sequence[str], wanted: range
) -> Iterator[tuple[pa.Scalar, ...]]:
    # without these two options a row group is read at once
    with pq.ParquetFile(path.open(), buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        first = 0
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(columns), use_threads=False):
            yield from _batch_rows(batch, columns, range(max(wanted.start - first, 0), max(wanted.stop - first, 0)))
            first += len(batch)
            if first >= wanted.stop:
                return


def _batch_rows(batch: pa.RecordBatch, columns: Sequence[str], wanted: range) -> Iterator[tuple[pa.Scalar, ...]]:
    return zip(*(batch.column(name)[wanted.start : wanted.stop] for name in columns), strict=True)


def _is_parquet(path: StoredFile) -> bool:
    return path.ending == ".parquet"


def _is_stream(path: StoredFile) -> bool:
    """Return whether an Arrow table is in the stream format, as `datasets` of Hugging Face writes it."""
    return path.read_at(0, len(STREAM_BEGIN)) == STREAM_BEGIN


def _fingerprint(path: StoredFile, column: str) -> str:
    """Return a hash of size and last bytes, where Parquet and Arrow keep offsets, counts and statistics."""
    size = path.size
    last = hashlib.sha256(path.read_at(max(0, size - _FOOT_BYTES), _FOOT_BYTES)).hexdigest()
    return sha256_json({"name": path.name, "bytes": size, "end": last, "column": column})


def _is_usable(kind: pa.DataType) -> bool:
    return _is_text(kind) or holds_image_bytes(without_views(kind))


def _is_text(kind: pa.DataType) -> bool:
    return is_text(without_views(kind))


def _path_of(value: pa.StructScalar) -> bytes | None:
    """Return the `path` of an image, or None."""
    if value.type.get_field_index("path") < 0 or not _is_text(value["path"].type):
        return None
    path = value["path"].as_buffer()
    return path.to_pybytes() if path else None


def _image_bytes(data: pa.Buffer | None) -> bytes:
    """Return a copy of an image's bytes. Raises BadImage for a null and for an image that is too large."""
    if data is None:
        raise BadImage("empty", "the table holds no value here")
    if data.size > LARGEST_FILE_BYTES:
        raise too_large(data.size)
    return data.to_pybytes()
