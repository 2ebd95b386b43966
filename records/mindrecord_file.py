"""One MindRecord shard read without MindSpore: its header, its index, its pages. Knows nothing of other shards.

Layout (version 3.0, little endian): 8 bytes with the size of the header, the header as JSON, and zeros up to
`header_size`; then pages of `page_size` bytes. A blob page has the images of some rows, each behind its size in 8
bytes; a raw page has the other fields of some rows, each row as a map in MessagePack behind its size. A row never
spans two pages. The SQLite file beside the shard (`.db`) says for each row in which pages and where its bytes are.
"""

import contextlib
import json
import os
import sqlite3
import threading
from typing import Any

import numpy as np

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.stores import ReadAt
from convnext_imagenet.records.schema import HOW_TO_REPAIR, MINDRECORD_SCHEMA, Row

_VERSION = "3.0"
_SIZE_BYTES = 8
_LARGEST_HEADER = 128 << 20  # the limit of FileWriter.set_header_size
_POSITIONS = (
    "ROW_ID, PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END, "
    "PAGE_ID_RAW, PAGE_OFFSET_RAW, PAGE_OFFSET_RAW_END, label_0"
)

# SQLite has locks of its own: a process that forks while another thread holds one would leave it locked in the child.
_in_sqlite = threading.Lock()
os.register_at_fork(before=_in_sqlite.acquire, after_in_parent=_in_sqlite.release, after_in_child=_in_sqlite.release)


class MindRecordFile:
    """The rows of one shard, by position; any number of threads may read, because reading keeps no state.

    `read_at` reads the shard, `file_bytes` is its size, `index` has the bytes of its `.db`. `labels` and `sizes` (of
    the images, in bytes) are int64 (rows,). Raises ArtefactError for a header or an index that is damaged, or not of a
    shard of ours. Bytes within pages are not checked here: compare images or the whole file with their SHA-256.
    """

    def __init__(self, name: str, read_at: ReadAt, file_bytes: int, index: bytes) -> None:
        self.name, self._read_at = name, read_at
        header = _read_header(name, read_at)
        positions = _read_index(name, index)
        if not np.array_equal(positions[:, 0], np.arange(len(positions))):
            raise _damaged(f"{name}.db", "its rows are not numbered 0, 1, 2, ...")
        self._images, self.sizes = _ranges(f"{name}.db", header, "BLOB_DATA", positions[:, 1:4], file_bytes)
        self._scalars, self._scalar_sizes = _ranges(f"{name}.db", header, "RAW_DATA", positions[:, 4:7], file_bytes)
        self.labels = positions[:, 7]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.sizes)

    def image(self, row: int) -> bytes:
        """Return the image of a row. Raises ArtefactError when the file ends before, OSError when it is unreadable."""
        return self._read(int(self._images[row]), int(self.sizes[row]))

    def row(self, row: int) -> Row:
        """Return all fields of a row. Raises ArtefactError when they are damaged, OSError when they cannot be read."""
        packed = self._read(int(self._scalars[row]), int(self._scalar_sizes[row]))
        try:
            fields, end = _unpack(packed, 0)
            if end != len(packed) or not isinstance(fields, dict):
                raise ValueError("not one map")
            return Row(image=self.image(row), **fields)
        except (ValueError, TypeError, IndexError) as error:
            raise _damaged(self.name, f"row {row} has no readable fields ({error})") from None

    def _read(self, offset: int, size: int) -> bytes:
        data = self._read_at(offset, size)
        if len(data) != size:
            raise _damaged(self.name, f"it ends before byte {offset + size:,}")
        return data


def _read_header(name: str, read_at: ReadAt) -> dict[str, Any]:
    """Return the header. Raises ArtefactError unless it is one of the shards that this program writes."""
    size = int.from_bytes(read_at(0, _SIZE_BYTES), "little")
    if not 0 < size <= _LARGEST_HEADER:
        raise _damaged(name, f"its header has {size:,} bytes; a writer that was killed leaves 0")
    try:
        header = json.loads(read_at(_SIZE_BYTES, size))
        (schema,) = header["schema"]
        found = {
            "version": header["version"],
            "compression_size": header["compression_size"],
            "shard_addresses": header["shard_addresses"],
            "blob_fields": schema["blob_fields"],
            "fields": schema["schema"],
        }
        pages = {page["page_id"]: (page["page_type"], int(page["page_size"])) for page in header["page"]}
        sizes = (int(header["header_size"]), int(header["page_size"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(name, f"its header cannot be read ({error!r})") from None
    expected = {
        "version": _VERSION,
        "compression_size": 0,
        "shard_addresses": [name],
        "blob_fields": ["image"],
        "fields": MINDRECORD_SCHEMA,
    }
    for key, value in expected.items():
        if found[key] != value:
            raise _damaged(name, f"{key} is {found[key]!r} in its header, but must be {value!r}")
    if not _SIZE_BYTES + size <= sizes[0] <= _LARGEST_HEADER or sizes[1] <= 0:
        raise _damaged(name, f"its header states {sizes[0]} bytes of header and pages of {sizes[1]} bytes")
    return {"header_size": sizes[0], "page_size": sizes[1], "pages": pages}


def _read_index(name: str, index: bytes) -> np.ndarray:
    """Return the columns `_POSITIONS` of each row, int64 (rows, 8). SQLite reads a copy in memory, never the file."""
    try:
        with _in_sqlite:
            names, rows = _query(index)
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:  # the last in names of columns
        raise _damaged(f"{name}.db", f"SQLite cannot read it ({error})") from None
    if names != [(name.encode(),)]:
        raise _damaged(f"{name}.db", f"it is the index of {names!r}")
    if not rows or not all(type(value) is int for row in rows for value in row):
        raise _damaged(f"{name}.db", "it has no rows, or a value that is not a whole number")
    return np.array(rows, dtype=np.int64)


def _query(index: bytes) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the names of shards in an index, and the columns `_POSITIONS` of its rows."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.text_factory = bytes  # damaged text need not be UTF-8
        connection.deserialize(index)
        names = connection.execute("SELECT NAME FROM SHARD_NAME").fetchall()
        return names, connection.execute(f"SELECT {_POSITIONS} FROM INDEXES ORDER BY ROW_ID").fetchall()


def _ranges(
    name: str, header: dict[str, Any], kind: str, columns: np.ndarray, file_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return where in the file the bytes of each row begin, and how many there are, without the 8 bytes of their size.

    `columns` are page, first and end byte within it. Raises ArtefactError for bytes outside of a page or of the file.
    """
    page, first, end = columns.T
    known = {number: size for number, (found, size) in header["pages"].items() if found == kind}
    if not set(np.unique(page).tolist()) <= known.keys():
        raise _damaged(name, f"it names pages that are not {kind} pages of the shard")
    used = np.array([known[number] for number in page.tolist()], dtype=np.int64)
    sizes = end - first - _SIZE_BYTES
    starts = header["header_size"] + page * header["page_size"] + first + _SIZE_BYTES
    is_outside = (first < 0) | (sizes <= 0) | (end > np.minimum(used, header["page_size"]))
    is_outside |= starts + sizes > file_bytes
    if is_outside.any():
        raise _damaged(name, f"row {int(np.argmax(is_outside))} lies outside of its page or of the shard")
    return starts, sizes


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    """Return the value that begins at `at` and where it ends: MessagePack's maps, text and whole numbers."""
    kind = data[at]
    at += 1
    if kind < 0x80:
        return kind, at
    if kind >= 0xE0:
        return kind - 0x100, at
    if kind < 0x90:
        fields = {}
        for _ in range(kind - 0x80):
            key, at = _unpack(data, at)
            fields[key], at = _unpack(data, at)
        return fields, at
    if 0xCC <= kind <= 0xD3:
        size = 1 << (kind & 3)
        return int.from_bytes(data[at : at + size], "big", signed=kind >= 0xD0), at + size
    if 0xA0 <= kind < 0xC0:
        size = kind - 0xA0
    elif 0xD9 <= kind <= 0xDB:
        bytes_of_size = 1 << (kind - 0xD9)
        size, at = int.from_bytes(data[at : at + bytes_of_size], "big"), at + bytes_of_size
    else:
        raise ValueError(f"byte {kind:#x} is no map, text or whole number")
    return data[at : at + size].decode(), at + size


def _damaged(name: str, problem: str) -> ArtefactError:
    return ArtefactError(f"{name}: not a readable shard of RECORDS: {problem}; {HOW_TO_REPAIR}")


def layout_of(name: str, read_at: ReadAt) -> tuple[int, int]:
    """Return the sizes of header and pages of a shard in bytes. Raises ArtefactError for a damaged header."""
    header = _read_header(name, read_at)
    return header["header_size"], header["page_size"]
