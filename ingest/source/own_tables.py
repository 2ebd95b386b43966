"""Tables that name image files and their labels: CSV, TSV, JSON lines and Parquet, such as metadata.csv.

Columns are found by their names; a file is named relative to the table's folder. Opens no image.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import IMAGE_ENDINGS, Links, is_folder, list_folder
from convnext_imagenet.ingest.source.own_folders import folder_names
from convnext_imagenet.ingest.source.samples import (
    Sample,
    SampleTree,
    require_safe,
    split_of_path,
    split_of_word,
)
from convnext_imagenet.ingest.source.scan_types import EntryCount, ScanNotes, printable

TEXT_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
PATH_COLUMNS = ("file_name", "filename", "path", "filepath", "file_path", "image_path", "file", "image", "img")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split", "subset", "set")
GROUP_COLUMNS = ("group", "group_id")
_LARGEST_TABLE_BYTES = 1 << 30
Row = Mapping[str, str]


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what; an empty name for one that it lacks."""

    path: str
    label: str
    split: str
    group: str


def choose_columns(names: Sequence[str], label_column: str, group_by: str) -> Columns:
    """Return what each column is, by its name; `label_column` and `group_by` override names."""
    label = label_column if label_column in names else ("" if label_column else _first(names, LABEL_COLUMNS))
    group = group_by if group_by in names else ("" if group_by else _first(names, GROUP_COLUMNS))
    return Columns(_first(names, PATH_COLUMNS), label, _first(names, SPLIT_COLUMNS), group)


def find_tables(root: Path) -> list[str]:
    """Return the tables in `root`, or in its folders, that have columns of files: paths below `root`."""
    folders = [".", *(name for name in folder_names(root) if split_of_word(name))]
    tables = []
    for folder in folders:
        for entry in list_folder(root, folder, ScanNotes()):
            path = entry.name if folder == "." else f"{folder}/{entry.name}"
            # In a folder only names that Hugging Face knows: a class folder may hold anything.
            is_known = folder == "." or entry.name.startswith("metadata.")
            if is_known and not is_folder(entry) and _header(root / path) is not None:
                tables.append(path)
    return tables


def scan_tables(root: Path, tables: Sequence[str], links: Links, label_column: str, group_by: str) -> SampleTree:
    """Return the images that tables name, with their labels.

    Raises IngestError for a table without labels, a row without a label or with a path that leads out of DATA, files
    that are not there, and files that are named twice.
    """
    if len(tables) > 1 and not all(split_of_path(table) for table in tables):
        raise IngestError(
            f"{root}: has several tables of images, {first_few(tables)}; keep one, or name them by their splits"
        )
    samples: list[Sample] = []
    unlabelled = EntryCount()
    first_row: dict[str, str] = {}
    missing: list[str] = []
    for table in tables:
        links.check_below(root, table)
        names, rows = _read(root / table)
        columns = choose_columns(names, label_column, group_by)
        _require_columns(root / table, names, columns, label_column, group_by)
        for where, row in rows:
            sample = _sample(root, table, columns, row, where, links, missing)
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
            f"{len(missing):,} of {len(samples):,} rows name files that are not there: {first_few(missing)}; add these "
            f"files, or remove the rows"
        )
    for folder in sorted({sample.path.rpartition("/")[0] or "." for sample in samples}):
        links.check_below(root, folder)
        for entry in list_folder(root, folder, ScanNotes()):
            path = entry.name if folder == "." else f"{folder}/{entry.name}"
            if entry.name.lower().endswith(IMAGE_ENDINGS) and path not in first_row:
                unlabelled.add(path)
    return SampleTree(f"table {', '.join(tables)}", samples, EntryCount(), unlabelled, follows_links=links.follow)


def _sample(root: Path, table: str, columns: Columns, row: Row, where: str, links: Links, missing: list[str]) -> Sample:
    folder = table.rpartition("/")[0]
    name = require_safe(row[columns.path], where)
    path = f"{folder}/{name}" if folder else name
    label = row[columns.label].strip()
    if not label:
        raise IngestError(f"{where}: no label for {printable(path)}; fill it in, or remove the row")
    split = split_of_path(table)
    if columns.split and (word := row[columns.split].strip()):
        split = split_of_word(word)
        if not split:
            raise IngestError(f"{where}: the split is {word[:40]!a}, expected train, val or test")
    elif not split:
        split = split_of_word(path.partition("/")[0])
    group = row[columns.group].strip() if columns.group else ""
    try:
        status = (root / path).stat(follow_symlinks=links.follow)
    except (OSError, ValueError):
        missing.append(f"{printable(path)} ({where.rpartition('/')[2]})")
        return Sample(path, label, split, group, where=where)
    return Sample(path, label, split, group, status.st_size, status.st_mtime_ns, where=where)


def _require_columns(path: Path, names: Sequence[str], columns: Columns, label_column: str, group_by: str) -> None:
    if not columns.label:
        wanted = f"no column {label_column!a}" if label_column else f"none of {', '.join(LABEL_COLUMNS)}"
        raise IngestError(
            f"{path}: has the columns {first_few([printable(name) for name in names], 8)}, {wanted}; pass "
            f"--label-column with the one that holds the class"
        )
    if group_by not in ("", "folder") and not columns.group:
        raise IngestError(
            f"{path}: has no column {group_by!a} for --group-by, only "
            f"{first_few([printable(name) for name in names], 8)}"
        )


def _first(names: Sequence[str], known: Sequence[str]) -> str:
    lower = {name.strip().lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), "")


def _header(path: Path) -> list[str] | None:
    """Return the columns of a table that names files; None for anything else."""
    if not path.name.lower().endswith((*TEXT_ENDINGS, ".parquet")):
        return None
    try:
        names = list(_columns_of(path))
    except (IngestError, OSError, ValueError, pa.ArrowException):
        return None
    return names if _first(names, PATH_COLUMNS) else None


def _columns_of(path: Path) -> Sequence[str]:
    ending = path.suffix.lower()
    if ending == ".parquet":
        schema = pq.read_schema(path)
        return [field.name for field in schema if not pa.types.is_nested(field.type) and not _is_binary(field.type)]
    with path.open("rb") as file:
        line = file.readline(1 << 20).removeprefix(codecs.BOM_UTF8).decode()
    if ending in (".jsonl", ".ndjson"):
        row = json.loads(line)
        return list(row) if isinstance(row, dict) else []
    return next(csv.reader([line], delimiter=_delimiter(line)), [])


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _read(path: Path) -> tuple[list[str], Iterator[tuple[str, Row]]]:
    """Return the columns of a table and its rows, each with where it is. Raises IngestError for damaged tables."""
    if path.stat().st_size > _LARGEST_TABLE_BYTES:
        raise IngestError(
            f"{path}: {path.stat().st_size:,} bytes, at most {_LARGEST_TABLE_BYTES:,} are read as a table"
        )
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path)
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode()
        names = [name.strip() for name in _columns_of(path)]
    except UnicodeDecodeError as error:
        raise IngestError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise IngestError(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:200]})") from None
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return names, _json_rows(path, text, names)
    return names, _csv_rows(path, text, names)


def _csv_rows(path: Path, text: str, names: list[str]) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text.partition("\n")[0]), strict=True)
    try:
        next(reader, None)
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            where = f"{path}: line {reader.line_num}"
            if len(values) != len(names):
                raise IngestError(
                    f"{where}: {len(values)} values for {len(names)} columns; put values with commas into quotes"
                )
            yield where, dict(zip(names, values, strict=True))
    except csv.Error as error:
        raise IngestError(f"{path}: line {reader.line_num}: {error}; quotes must be closed") from None


def _json_rows(path: Path, text: str, names: list[str]) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise IngestError(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict) or not set(names) <= row.keys():
            raise IngestError(
                f"{where}: lacks a key of the first line ({first_few(names)}); write every key in each line"
            )
        yield where, {name: "" if row[name] is None else str(row[name]) for name in names}


def _read_parquet(path: Path) -> tuple[list[str], Iterator[tuple[str, Row]]]:
    names = list(_columns_of(path))
    rows = pq.read_table(path, columns=names).to_pylist()
    texts = ({name: "" if row[name] is None else str(row[name]) for name in names} for row in rows)
    return names, ((f"{path}: row {number}", row) for number, row in enumerate(texts))
