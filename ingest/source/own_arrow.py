"""Images in Parquet and Arrow, as Hugging Face stores them: rows of an image and a label.

Arrow that is not compressed holds each image's bytes as they are, so they are read in place by their position; Parquet
and compressed Arrow are unpacked first. Decodes no image.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.image_tables import (
    SPLITS_FILE,
    STATE_FILE,
    STREAM_BEGIN,
    STREAM_END,
    class_names,
    data_files,
    holds_image_bytes,
    is_image_struct,
    is_indexed,
    split_names,
)
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import Links, folder_names, is_folder, list_folder
from convnext_imagenet.ingest.source.own_tables import Columns, choose_columns
from convnext_imagenet.ingest.source.samples import Sample, SampleTree, split_of_path, split_of_word
from convnext_imagenet.ingest.source.scan_types import EntryCount, ScanNotes, printable
from convnext_imagenet.ingest.source.unpack import Unpacker

ENDINGS = (".parquet", ".arrow", ".feather")
_DEEPEST, _MOST_FOLDERS = 3, 20  # as data/plain_text/train/0000.parquet


@dataclass(frozen=True)
class _Table:
    """An Arrow file: its name below DATA, its split, the file to read and its name for the reader of images."""

    name: str
    split: str
    file: Path
    container: str


def saved_files(root: Path) -> list[tuple[str, str]] | None:
    """Return path below `root` and split of each Arrow file that `save_to_disk` wrote; None for another folder.

    Raises IngestError for a data set whose rows are chosen by an index.
    """
    splits = split_names(_json(root / SPLITS_FILE))
    if not splits and not (root / STATE_FILE).is_file():
        return None
    found = []
    for split in splits or [""]:
        state = _json(root / split / STATE_FILE)
        files = data_files(state)
        if files is None:
            raise IngestError(
                f"{root / split / STATE_FILE}: missing or damaged; write the data set again by save_to_disk"
            )
        if is_indexed(state):
            raise IngestError(
                f"{root / split}: a Hugging Face data set whose rows are chosen by an index; write it again with "
                f"`flatten_indices()` and `save_to_disk`"
            )
        found += [(f"{split}/{name}" if split else name, split_of_word(split) or split) for name in files]
    if unknown := sorted({split for _, split in found} - {"", "train", "val", "test"}):
        raise IngestError(
            f"{root}: has the split {unknown[0]!a}, expected train, validation or test; rename its folder"
        )
    return found


def image_tables(root: Path) -> list[str]:
    """Return the Parquet and Arrow files with image bytes at the root and in its folders: paths below `root`.

    Raises IngestError for one that cannot be read: its images would be missing without a word.
    """
    found = []
    for folder in _folders(root, ".", _DEEPEST):
        for entry in list_folder(root, folder, ScanNotes()):
            if entry.name.lower().endswith(ENDINGS) and not is_folder(entry):
                name = entry.name if folder == "." else f"{folder}/{entry.name}".removeprefix("./")
                if _has_images(root / name):
                    found.append(name)
    return found


def scan_arrow(
    root: Path,
    files: Sequence[tuple[str, str]],
    kind: str,
    links: Links,
    unpacker: Unpacker,
    label_column: str,
    group_by: str,
) -> SampleTree:
    """Return the images of tables, each a path below `root` and its split.

    Raises IngestError for a table that is damaged, lacks a column, or holds paths in place of images.
    """
    samples: list[Sample] = []
    unlabelled = EntryCount()
    order: tuple[str, ...] = ()
    for name, split in files:
        links.check_below(root, name)
        path = unpacker.arrow_of(root, name) if name.lower().endswith(".parquet") else root / name
        table = _Table(name, split, path, name if path == root / name else str(path.absolute()))
        try:
            found, names = _scan(root, table, label_column, group_by, unlabelled)
        except (OSError, pa.ArrowException) as error:
            raise IngestError(
                f"{root / name}: cannot be read as a table ({' '.join(str(error).split())[:200]}); download it again"
            ) from None
        if order and names and names != order:
            raise IngestError(f"{root / name}: its classes are others than those of {files[0][0]}; keep one data set")
        order = names or order
        samples += found
    read = [name for name, _ in files]
    return SampleTree(kind, samples, EntryCount(), unlabelled, order, follows_links=links.follow, read_files=read)


def _folders(root: Path, relative: str, depth: int) -> Iterator[str]:
    yield relative
    names = folder_names(root, relative) if depth else []
    if len(names) <= _MOST_FOLDERS:  # else they are class folders
        for name in names:
            yield from _folders(root, f"{relative}/{name}".removeprefix("./"), depth - 1)


def _has_images(path: Path) -> bool:
    try:
        if path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
        else:
            schema = _open(pa.memory_map(str(path)), path).schema
    except (OSError, pa.ArrowException) as error:
        raise IngestError(
            f"{path}: cannot be read as a table ({' '.join(str(error).split())[:200]}); download it again (with Git "
            f"LFS: `git lfs pull`), or remove it"
        ) from None
    return any(holds_image_bytes(field.type) for field in schema)


def _is_ended(whole: pa.Buffer) -> bool:
    return whole.slice(max(0, whole.size - len(STREAM_END))).to_pybytes() == STREAM_END


def _open(source: Any, path: Path) -> Any:
    with path.open("rb") as file:
        is_stream = file.read(len(STREAM_BEGIN)) == STREAM_BEGIN
    return pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source)


def _scan(
    root: Path, table: _Table, label_column: str, group_by: str, unlabelled: EntryCount
) -> tuple[list[Sample], tuple[str, ...]]:
    """Return the samples of one table, and the classes that its schema names, in order."""
    with pa.memory_map(str(table.file)) as mapped:
        whole = mapped.read_buffer()
        if whole.slice(0, len(STREAM_BEGIN)).to_pybytes() == STREAM_BEGIN and not _is_ended(whole):
            raise pa.ArrowInvalid("the stream has no end mark: it is truncated")
        reader = _open(pa.BufferReader(whole), table.file)
        image, columns = _columns(root / table.name, reader.schema, label_column, group_by)
        label, group, split = columns.label, columns.group, columns.split
        names = tuple(class_names(reader.schema).get(label, ()))
        if len(set(names)) < len(names):
            twice = next(name for name, count in Counter(names).items() if count > 1)
            raise IngestError(
                f"{root / table.name}: its schema names the class {printable(twice)} twice; give each class a name of "
                f"its own"
            )
        modified_ns = table.file.stat().st_mtime_ns
        samples: list[Sample] = []
        first = 0
        for batch in _batches(reader):
            positions = _positions(root / table.name, batch.column(image), whole)
            labels = batch.column(label).to_pylist()
            groups = batch.column(group).to_pylist() if group else [""] * len(batch)
            words = batch.column(split).to_pylist() if split else [""] * len(batch)
            for row, ((offset, size, own_name), value, of, word) in enumerate(
                zip(positions, labels, groups, words, strict=True), first
            ):
                text = _label(root / table.name, row, value, names)
                path = f"{table.name}#{row}"
                if not text:
                    unlabelled.add(path, "rows without a label")
                    continue
                title = str(of) if of not in (None, "") else ""
                own = own_name or path.rpartition("/")[2]
                side = _split(root / table.name, row, word, table.split)
                samples.append(
                    Sample(path, text, side, title, size, modified_ns, table.container, offset, own_name=own)
                )
            first += len(batch)
        return samples, names


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        yield from reader


def _columns(path: Path, schema: pa.Schema, label_column: str, group_by: str) -> tuple[str, Columns]:
    """Return the column of images, and the others. Raises IngestError unless those of image and label are clear."""
    images = [field.name for field in schema if holds_image_bytes(field.type)]
    structs = [name for name in images if is_image_struct(schema.field(name).type)]
    images = structs or images
    others = [field.name for field in schema if field.name not in images and not pa.types.is_nested(field.type)]
    chosen = choose_columns(others, label_column, group_by)
    numbered = [name for name in class_names(schema) if name in others]
    label = chosen.label or (numbered[0] if len(numbered) == 1 and not label_column else "")
    if len(images) != 1:
        raise IngestError(
            f"{path}: has {len(images)} columns of images ({first_few(images)}), expected one; drop the others"
        )
    if not label:
        raise IngestError(
            f"{path}: not clear which column holds the class; pass --label-column with one of: "
            f"{', '.join(others) or 'none'}"
        )
    if group_by and not chosen.group:
        raise IngestError(f"{path}: has no column {group_by!a} for --group-by, only {', '.join(others)}")
    return images[0], replace(chosen, label=label)


def _positions(path: Path, column: pa.Array, whole: pa.Buffer) -> Iterator[tuple[int, int, str]]:
    """Yield position in the file, size in bytes and own name of each image of a column."""
    names = [""] * len(column)
    if pa.types.is_struct(column.type):
        if column.type.get_field_index("path") >= 0:
            paths = column.field("path").to_pylist()
            names = [(value or "").rpartition("/")[2] for value in paths]
        if column.field("bytes").null_count:
            row = column.field("bytes").is_null().to_pylist().index(True)
            raise IngestError(
                f"{path}: row {row} holds no bytes of an image, only the path {printable(names[row])!a}; write the "
                f"data set again with the images in it (datasets: `embed_external_files`)"
            )
        column = column.field("bytes")
    _, offsets, data = column.buffers()
    kind = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    ends = np.frombuffer(offsets, kind)[column.offset : column.offset + len(column) + 1].tolist()
    begin = (data.address - whole.address) if data is not None else 0
    if data is not None and not 0 <= begin <= whole.size - data.size:
        raise IngestError(f"{path}: compressed Arrow; write it again without compression, or as Parquet")
    for start, end, name in zip(ends[:-1], ends[1:], names, strict=True):
        yield begin + start, end - start, name


def _label(path: Path, row: int, value: Any, names: Sequence[str]) -> str:
    if value is None or value != value or value in (-1, ""):  # NaN, as pandas writes a gap, is not itself
        return ""
    if not names or not isinstance(value, int):
        return str(value).strip()
    if not 0 <= value < len(names):
        raise IngestError(f"{path}: row {row} has the class {value}, but the schema names only {len(names)}")
    return names[value]


def _split(path: Path, row: int, value: Any, of_file: str) -> str:
    """Return the split of a row: that of its file's name, else that of its column, if any.

    Raises IngestError where they contradict each other, and for a word that is no split where only the column says it.
    """
    word = str(value or "").strip()
    split = split_of_word(word)
    if of_file and split not in ("", of_file):
        raise IngestError(
            f"{path}: row {row} has the split {word[:40]!a}, but the file's name says {of_file}; rename the "
            f"file so that it names no split"
        )
    if word and not (of_file or split):
        raise IngestError(
            f"{path}: row {row} has the split {word[:40]!a}, expected train, val or test; correct or drop the column"
        )
    return of_file or split


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def with_splits(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each file with the split that its path names."""
    return [(name, split_of_path(name)) for name in names]
