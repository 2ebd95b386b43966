"""RECORDS read from any Python program, without MindSpore: one split as a sequence of (image, label).

`open_records` is the public door, see docs/library.md. It needs NumPy and PyArrow. Knows nothing of how records are
made, nor of training's order.
"""

import hashlib
import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import pyarrow as pa

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.base.host import allow_open_files
from convnext_imagenet.base.parquet import equals, numbers, read_table
from convnext_imagenet.records.checked import is_unchanged, known_stamps, remember_stamps, stamp
from convnext_imagenet.records.index import INDEX_FILE
from convnext_imagenet.records.manifest import ClassEntry, Manifest, ShardEntry
from convnext_imagenet.records.mindrecord_file import MindRecordFile
from convnext_imagenet.records.places import LocalPlace, Place, index_bytes, place_of
from convnext_imagenet.records.schema import HOW_TO_REPAIR, Row

Check = Literal["rows", "shards"]


class Sample(NamedTuple):
    """One stored image: the bytes of its file, and its class index."""

    image: bytes
    label: int


def open_records(records: str | Path, split: str = "train", *, check: Check = "rows") -> "RowSource":
    """Return one split of a finished RECORDS directory, at a path or a URI, as a sequence of samples.

    Every byte that is returned was compared with a SHA-256 that the manifest determines: with `rows` each image when it
    is read, with `shards` each shard as a whole before its first row is read, once for all programs of this user.
    Raises ArtefactError for a directory that is missing, unfinished, damaged or of another version, and for a split
    without rows. Reading raises ArtefactError for damaged bytes and IndexError outside of the split.
    """
    place = place_of(records)
    manifest = place.manifest()
    entry = manifest.splits.get(split)
    if entry is None or not entry.rows:
        known = ", ".join(sorted(name for name, entry in manifest.splits.items() if entry.rows))
        raise ArtefactError(f"{place}: no rows in split {split!r}; splits with rows: {known or 'none'}")
    if check == "shards" and not isinstance(place, LocalPlace):
        raise ArtefactError(f"{place}: check='shards' needs a folder on this machine; pass check='rows', or pull it")
    allow_open_files(len(entry.shards))
    return RowSource(place, manifest, split, check)


def find_row(records: str | Path, key: str) -> tuple["RowSource", int]:
    """Return the split that has the row with this key, and its position there. Raises ArtefactError without one."""
    place = place_of(records)
    for name, split in place.manifest().splits.items():
        if split.rows and key in (source := open_records(records, name)).keys:
            return source, source.keys.index(key)
    raise ArtefactError(f"--key {key}: no such row; {place}/{INDEX_FILE} lists all keys")


class RowSource(Sequence[Sample]):
    """One split of RECORDS; row 0 is the first row of the first shard. `open_records` makes it.

    Threads may share it. After a fork, and in a process that it was pickled to, it reads as before. Shards are opened
    at their first use.
    """

    def __init__(self, place: Place, manifest: Manifest, split: str, check: Check) -> None:
        self._place, self._check = place, check
        self.manifest, self.split = manifest, split
        self._shards = manifest.splits[split].shards
        self._starts = np.cumsum([0, *(shard.rows for shard in self._shards)])
        self._open: dict[int, _OpenShard] = {}
        self._index = _split_index(place, manifest, split)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def place(self) -> str:
        """The directory or URI of the records."""
        return str(self._place)

    @property
    def classes(self) -> tuple[ClassEntry, ...]:
        """The classes by index."""
        return self.manifest.classes

    @cached_property
    def labels(self) -> np.ndarray:
        """The class index of each row, int32 (rows,)."""
        return numbers(self._index["label"])

    @cached_property
    def sample_ids(self) -> np.ndarray:
        """The sample id of each row, int64 (rows,)."""
        return numbers(self._index["sample_id"])

    @cached_property
    def keys(self) -> Sequence[str]:
        """The key of each row, such as n01440764_10026."""
        return self._index["key"].to_pylist()

    @cached_property
    def sha256s(self) -> Sequence[str]:
        """The SHA-256 of each image, in hexadecimal."""
        return self._index["sha256"].to_pylist()

    @overload
    def __getitem__(self, row: int) -> Sample: ...
    @overload
    def __getitem__(self, row: slice) -> list[Sample]: ...
    def __getitem__(self, row: int | slice) -> Sample | list[Sample]:
        """Return a row, or the rows of a slice; negative positions count from the end."""
        if isinstance(row, slice):
            return [self._sample(each) for each in range(*row.indices(len(self)))]
        return self._sample(self._position(row))

    def __getitems__(self, rows: Sequence[int] | np.ndarray) -> list[Sample]:
        """Return the rows at these positions, in this order; PyTorch's DataLoader fetches its batches by this name."""
        return [self._sample(self._position(row)) for row in rows]

    def require_row(self, row: int) -> None:
        """Raise ArtefactError unless there is a row at this position."""
        if row >= len(self):
            raise ArtefactError(f"--row {row}: split {self.split!r} has only the rows 0..{len(self) - 1}")

    def batches(self, rows: Sequence[int] | np.ndarray, batch_size: int) -> Iterator[list[Sample]]:
        """Yield the rows at these positions in batches; the last one may be smaller."""
        for start in range(0, len(rows), batch_size):
            yield self.__getitems__(rows[start : start + batch_size])

    def fields(self, row: int) -> Row:
        """Return all stored fields of a row: image, label, sample_id, key, height and width."""
        position = self._position(row)
        sample = self._sample(position)
        names = ("sample_id", "key", "height", "width")
        return Row(sample.image, sample.label, **{name: self._index[name][position].as_py() for name in names})

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # descriptors stay in this process

    def _position(self, row: Any) -> int:
        position = operator.index(row)
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} is outside of the {len(self):,} rows of {self.split}")
        return position % len(self)

    def _sample(self, row: int) -> Sample:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        # Without a lock: another thread or a fork would have to wait for it. The first shard that was opened stays.
        shard = self._open.get(number) or self._open.setdefault(number, self._open_shard(number))
        return shard.sample(row - int(self._starts[number]))

    def _open_shard(self, number: int) -> "_OpenShard":
        entry, start = self._shards[number], int(self._starts[number])
        rows = self._index.slice(start, entry.rows)
        if self._check == "shards":
            self._require_whole(entry)
        return _OpenShard(self._place, self.split, entry, rows, compares_rows=self._check == "rows")

    def _require_whole(self, entry: ShardEntry) -> None:
        """Raise ArtefactError unless the SHA-256 of a shard on this machine is the manifest's."""
        path = Path(str(self._place)) / self.split / entry.name
        now = stamp(path)
        if is_unchanged((known := known_stamps(self.manifest)).get(entry.name), now):
            return
        if sha256_file(path) != entry.sha256:
            raise ArtefactError(f"{path}: changed (its SHA-256 is not the recorded one); {HOW_TO_REPAIR}")
        remember_stamps(self.manifest, known | {entry.name: now})


class _OpenShard:
    """One shard, with what the manifest determines of each row: label, size and digest."""

    def __init__(self, place: Place, split: str, entry: ShardEntry, rows: pa.Table, compares_rows: bool) -> None:
        name = f"{split}/{entry.name}"
        self._display = f"{place}/{name}"
        index = place.read(f"{name}.db")
        if hashlib.sha256(index).hexdigest() != entry.index_sha256:
            raise ArtefactError(f"{self._display}.db: not the file that the manifest names; {HOW_TO_REPAIR}")
        file_bytes = place.size(name)
        if file_bytes != entry.bytes:
            raise ArtefactError(f"{self._display}: {file_bytes} bytes, expected {entry.bytes}; {HOW_TO_REPAIR}")
        self._file = MindRecordFile(entry.name, place.reader(name), file_bytes, index)
        labels, sizes = numbers(rows["label"]), numbers(rows["bytes"])
        if not (np.array_equal(self._file.labels, labels) and np.array_equal(self._file.sizes, sizes)):
            raise ArtefactError(f"{self._display}: its rows are others than those of {INDEX_FILE}; {HOW_TO_REPAIR}")
        self._labels: list[int] = labels.tolist()
        self._digests = bytes.fromhex("".join(rows["sha256"].to_pylist())) if compares_rows else b""

    def sample(self, row: int) -> Sample:
        """Return a row. Raises ArtefactError when its image is not the one that the manifest determines."""
        image = self._file.image(row)
        if self._digests and hashlib.sha256(image).digest() != self._digests[32 * row : 32 * row + 32]:
            raise ArtefactError(f"{self._display}: the image of row {row} is damaged; {HOW_TO_REPAIR}")
        return Sample(image, self._labels[row])


def _split_index(place: Place, manifest: Manifest, split: str) -> pa.Table:
    """Return the rows of a split in index.parquet. Raises ArtefactError unless they are the manifest's."""
    data = index_bytes(place, manifest)
    columns = ["split", "key", "label", "sample_id", "bytes", "width", "height", "sha256"]
    table = read_table(pa.BufferReader(data), columns)
    rows = table.filter(equals(table["split"], split)).drop_columns(["split"]).combine_chunks()
    if rows.num_rows != manifest.splits[split].rows:
        raise ArtefactError(f"{place}/{INDEX_FILE}: {rows.num_rows} rows of {split}; {HOW_TO_REPAIR}")
    return rows
