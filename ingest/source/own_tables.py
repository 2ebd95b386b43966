"""Tables that name image files and their labels: CSV, TSV, JSON lines and Parquet, such as metadata.csv.

Columns are found by their names; a file is named relative to the table's folder. Tables and images may lie in archives.
Opens no image.
"""

import codecs
import csv
import functools
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.image_tables import is_binary
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import folder_names, is_folder, list_folder
from convnext_imagenet.ingest.source.own_archives import Archive
from convnext_imagenet.ingest.source.samples import (
    Sample,
    SampleTree,
    require_safe,
    split_of_path,
    split_of_word,
)
from convnext_imagenet.ingest.source.scan_types import EntryCount, ScanNotes, printable
from convnext_imagenet.ingest.source.table_files import Files

_JSON_ENDINGS = (".jsonl", ".ndjson")
TEXT_ENDINGS = (".csv", ".tsv", *_JSON_ENDINGS)
PATH_COLUMNS = ("file_name", "filename", "path", "filepath", "file_path", "image_path", "file", "image", "img")
ID_COLUMNS = ("image_id", "image_name", "img_id", "id_code", "id")  # of files, if the first row's file is there
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "class_id", "classid")
SPLIT_COLUMNS = ("split", "subset", "set")
GROUP_COLUMNS = ("group", "group_id")
_LARGEST_TABLE_BYTES = 1 << 30
_LONGEST_HEADER_BYTES = 1 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SUBMISSION = re.compile(r"sample_?submission", re.IGNORECASE)  # of Kaggle: its labels are made up
Row = Mapping[str, str]


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what; an empty name for one that it lacks."""

    path: str
    label: str
    split: str
    group: str


@dataclass(frozen=True)
class Table:
    """A table: its path below DATA, to whose folder its rows' paths belong, what messages call it, and its bytes.

    An archive counts as unpacked where it lies.
    """

    path: str
    title: str
    size: int
    read: Callable[[], bytes]


def choose_columns(names: Sequence[str], label_column: str, group_by: str) -> Columns:
    """Return what each column is, by its name; `label_column` and `group_by` override names."""
    label = _named(names, label_column) if label_column else _first(names, LABEL_COLUMNS)
    group = _named(names, group_by) if group_by else _first(names, GROUP_COLUMNS)
    return Columns(_first(names, (*PATH_COLUMNS, *ID_COLUMNS)), label, _first(names, SPLIT_COLUMNS), group)


def find_tables(root: Path, files: Files) -> list[Table]:
    """Return the tables in `root`, or in its folders that name splits, whose rows name `files`."""
    folders = [".", *(name for name in folder_names(root) if split_of_word(name))]
    tables = []
    for folder in folders:
        for entry in list_folder(root, folder, ScanNotes()):
            path = entry.name if folder == "." else f"{folder}/{entry.name}"
            if not _may_be_table(path) or is_folder(entry):
                continue
            file = root / path
            table = Table(path, str(file), file.stat().st_size, file.read_bytes)
            if _names_files(table, columns_on_disk(file), files):
                tables.append(table)
    return tables


def tables_in(root: Path, archives: Sequence[Archive], files: Files) -> list[Table]:
    """Return the tables in archives whose rows name `files`; Parquet in archives is not looked at."""
    tables = []
    for archive in archives:
        for name, member in archive.members.items():
            if not name.lower().endswith(TEXT_ENDINGS) or member.size > _LARGEST_TABLE_BYTES:
                continue
            if _may_be_table(name) or _may_be_table(name.partition("/")[2]):
                path = f"{archive.folder}/{name}".removeprefix("/")
                read = functools.partial(archive.read, member)
                table = Table(path, f"{root / archive.name}: {name}", member.size, read)
                if _names_files(table, _columns_of_text(name, read()), files):
                    tables.append(table)
    return tables


def _may_be_table(path: str) -> bool:
    """Return whether a file may be a table: in a folder, only names that Hugging Face knows."""
    folder, _, name = path.rpartition("/")
    is_known = not folder or name.startswith("metadata.")  # a class folder may hold anything
    return is_known and name.lower().endswith((*TEXT_ENDINGS, ".parquet")) and not _SUBMISSION.match(name)


def _names_files(table: Table, columns: Sequence[str], files: Files) -> bool:
    """Return whether a table has a column of files. Any table may have a column of ids: then its first file decides."""
    if _first(columns, PATH_COLUMNS):
        return True
    if not _first(columns, ID_COLUMNS):
        return False
    try:
        first = first_path(table)
    except IngestError:
        return False
    return bool(first) and files.find(first) is not None


def scan_tables(
    root: Path, tables: Sequence[Table], files: Files, label_column: str, group_by: str, follows_links: bool
) -> SampleTree:
    """Return the images that tables name, with their labels.

    Raises IngestError for a table without labels, a row without a label or with a path that leads out of DATA, files
    that are not there, and files that are named twice.
    """
    paths = [table.path for table in tables]
    if len(tables) > 1 and not all(map(split_of_path, paths)):
        raise IngestError(
            f"{root}: has several tables of images, {first_few(paths)}; keep one, or name them by their splits"
        )
    samples: list[Sample] = []
    first_row: dict[str, str] = {}
    missing: dict[str, str] = {}  # path to where it is named
    for table in tables:
        names, rows = _read(table)
        columns = choose_columns(names, label_column, group_by)
        _require_columns(table.title, names, columns, label_column, group_by)
        for where, row in rows:
            sample = _sample(table, columns, row, where, files, missing)
            if group_by == "folder" and not columns.group:
                sample = sample._replace(group=sample.path.rpartition("/")[0])
            if sample.path in first_row:
                raise IngestError(
                    f"{where}: {printable(sample.path)} is in {first_row[sample.path]} already; remove one of the rows"
                )
            first_row[sample.path] = where
            samples.append(sample)
    if missing:
        raise IngestError(
            f"{len(missing):,} of {len(samples):,} rows name files that are not there: "
            f"{first_few([f'{printable(path)} ({where})' for path, where in missing.items()])}; "
            f"{_instead(next(iter(missing)), files)}"
        )
    unlabelled = EntryCount()
    for path in files.images_beside(first_row):
        unlabelled.add(path, path.partition("/")[0])
    return SampleTree(
        f"table {', '.join(paths)}", samples, EntryCount(), unlabelled, follows_links=follows_links, read_files=paths
    )


def _instead(path: str, files: Files) -> str:
    if similar := files.similar(path):
        return f"{similar!a} is there: in the table, write names in the same case, Unicode form and encoding"
    return "add these files, or remove the rows"


def first_path(table: Table) -> str:
    """Return the path below DATA that the first row names, or nothing. Raises IngestError for a damaged table."""
    names, rows = _read(table)
    for where, row in rows:
        return _below(table, require_safe(row[_first(names, (*PATH_COLUMNS, *ID_COLUMNS))], where))
    return ""


def _below(table: Table, name: str) -> str:
    return f"{table.path.rpartition('/')[0]}/{name}".removeprefix("/")


def _sample(table: Table, columns: Columns, row: Row, where: str, files: Files, missing: dict[str, str]) -> Sample:
    path = _below(table, require_safe(row[columns.path], where))
    label = row[columns.label].strip()
    if not label:
        raise IngestError(f"{where}: no label for {printable(path)}, or several; write one, or remove the row")
    split = split_of_path(table.path)
    if columns.split and (word := row[columns.split].strip()):
        split = split_of_word(word)
        if not split:
            raise IngestError(f"{where}: the split is {word[:40]!a}, expected train, val or test")
    elif not split:
        split = split_of_word(path.partition("/")[0])
    group = row[columns.group].strip() if columns.group else ""
    found = files.find(path)
    if found is None:
        missing[path] = where.rpartition("/")[2]
        found = Sample(path, "")
    return found._replace(label=label, split=split, group=group, where=where)


def _require_columns(title: str, names: Sequence[str], columns: Columns, label_column: str, group_by: str) -> None:
    if not columns.label:
        wanted = f"no column {label_column!a}" if label_column else f"none of {', '.join(LABEL_COLUMNS)}"
        raise IngestError(
            f"{title}: has the columns {first_few([printable(name) for name in names], 8)}, {wanted}; pass "
            f"--label-column with the one that holds the class, one value for each image"
        )
    if group_by not in ("", "folder") and not columns.group:
        raise IngestError(
            f"{title}: has no column {group_by!a} for --group-by, only "
            f"{first_few([printable(name) for name in names], 8)}"
        )


def _named(names: Sequence[str], wanted: str) -> str:
    return wanted if wanted in names else ""


def _first(names: Sequence[str], known: Sequence[str]) -> str:
    lower = {name.strip().lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), "")


def columns_on_disk(path: Path) -> Sequence[str]:
    """Return the columns of a file on disk, none if it is no table."""
    try:
        if path.suffix.lower() == ".parquet":
            return _columns_of_schema(pq.read_schema(path))
        with path.open("rb") as file:
            return _columns_of_text(path.name, file.read(_LONGEST_HEADER_BYTES))
    except (OSError, pa.ArrowException):
        return []


def _columns_of_schema(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if not pa.types.is_nested(field.type) and not is_binary(field.type)]


def _columns_of_text(name: str, data: bytes) -> Sequence[str]:
    """Return the columns of a table of text, none if its first line is not that of a table."""
    try:
        line = _header(data[:_LONGEST_HEADER_BYTES])
        if name.lower().endswith(_JSON_ENDINGS):
            row = json.loads(line)
            return [name for name in row if not _is_nested(row[name])] if isinstance(row, dict) else []
        return [each.strip() for each in next(csv.reader([line], **_form(line)), [])]
    except (ValueError, RecursionError, csv.Error):
        return []


def _header(data: bytes) -> str:
    """Return the first line of a text whose beginning is given; what follows need not be text."""
    if not data.startswith(_UTF16_MARKS):
        data = re.split(rb"[\r\n]", data, maxsplit=1)[0]
    return _first_line(_text(data, is_whole=False))


def _text(data: bytes, is_whole: bool = True) -> str:
    """Return UTF-8 text, or UTF-16 as Excel writes it, with a mark; less a character that is cut off unless whole.

    Raises UnicodeDecodeError for anything else.
    """
    encoding = "utf-16" if data.startswith(_UTF16_MARKS) else "utf-8-sig"
    return codecs.getincrementaldecoder(encoding)().decode(data, is_whole)


def _first_line(text: str) -> str:
    return re.split(r"[\r\n]", text, maxsplit=1)[0]


def _form(header: str) -> dict[str, Any]:
    """Return what `csv.reader` must know; a header with a space after each delimiter has it in every row."""
    delimiter = max(",;\t", key=header.count)
    has_spaces = 0 < header.count(delimiter) == header.count(f"{delimiter} ")
    return {"delimiter": delimiter, "skipinitialspace": has_spaces}


def _read(table: Table) -> tuple[Sequence[str], Iterator[tuple[str, Row]]]:
    """Return the columns of a table and its rows, each with where it is. Raises IngestError for damaged tables."""
    if table.size > _LARGEST_TABLE_BYTES:
        raise IngestError(f"{table.title}: {table.size:,} bytes, at most {_LARGEST_TABLE_BYTES:,} are read as a table")
    try:
        data = table.read()
        if table.path.lower().endswith(".parquet"):
            return _read_parquet(table.title, data)
        text = _text(data)
    except UnicodeDecodeError as error:
        raise IngestError(f"{table.title}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IngestError(f"{table.title}: cannot be read as a table ({' '.join(str(error).split())[:200]})") from None
    names = _columns_of_text(table.path, data)
    is_json = table.path.lower().endswith(_JSON_ENDINGS)
    return names, (_json_rows if is_json else _csv_rows)(table.title, text, names)


def _csv_rows(title: str, text: str, names: Sequence[str]) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **_form(_first_line(text)))
    try:
        next(reader, None)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            where = f"{title}: line {reader.line_num}"
            if len(values) != len(names):
                raise IngestError(
                    f"{where}: {len(values)} values for {len(names)} columns; put values with commas into quotes"
                )
            yield where, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise IngestError(f"{title}: line {reader.line_num}: {error}; quotes must be closed") from None


def _json_rows(title: str, text: str, names: Sequence[str]) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{title}: line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise IngestError(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict) or not set(names) <= row.keys():
            raise IngestError(
                f"{where}: lacks a key of the first line ({first_few(names)}); write every key in each line"
            )
        yield where, {name: "" if row[name] is None or _is_nested(row[name]) else str(row[name]) for name in names}


def _is_nested(value: object) -> bool:
    """Return whether a value is no single one, such as a list of several labels."""
    return isinstance(value, list | dict)


def _read_parquet(title: str, data: bytes) -> tuple[Sequence[str], Iterator[tuple[str, Row]]]:
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        names = _columns_of_schema(file.schema_arrow)
        rows = file.read(columns=names).to_pylist()
    texts = ({name: "" if row[name] is None else str(row[name]) for name in names} for row in rows)
    return names, ((f"{title}: row {number}", row) for number, row in enumerate(texts))
