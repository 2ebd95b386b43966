"""The small pictures that ingest has stored beside the shards, and which images an audit must decode all the same.

A stored picture only proposes: what an audit reports was decoded. So an image is decoded if it has none, if its picture
may hide a border or is nearly flat, or if it is near that of another image (`job.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.protocol import file_damage, read_receipt
from convnext_imagenet.records.audit.fingerprint import could_have_border
from convnext_imagenet.records.index import shard_index_path
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.schema import HOW_TO_REPAIR, SMALL_VERSION
from convnext_imagenet.records.small_picture import SMALL_PX

# Raise when an audit takes other candidates from the same stored pictures.
STORED_VERSION = 1
_LEAST_CONTRAST = 6.0  # levels of 255: of a flatter picture only the pixels tell whether it is blank
_MOST_ASPECT = 4.0  # the audit flags images that are more extreme
_COLUMNS = ["width", "height", "small"]


class StoredPicture(NamedTuple):
    """The sides of an image in pixels, and its small picture, uint8 (48, 48); None if none is stored."""

    width: int
    height: int
    small: np.ndarray | None


@dataclass(frozen=True)
class _Group:
    """A row group of a shard's table: its images have the numbers from `first` to below `end`."""

    path: Path
    group: int
    first: int
    end: int


@dataclass(frozen=True)
class StoredPictures:
    """The pictures of all images of RECORDS, by number as in `RecordsSource`."""

    groups: tuple[_Group, ...]

    def read(self, numbers: Sequence[int]) -> Iterator[StoredPicture]:
        """Yield the pictures of these rising numbers. Raises ArtefactError for what is no picture."""
        wanted = np.asarray(numbers, np.int64)
        for group in self.groups:
            inside = wanted[(wanted >= group.first) & (wanted < group.end)]
            if len(inside):
                yield from _pictures(group.path, _read_group(group.path, group.group).take(inside - group.first))


def needs_pixels(picture: StoredPicture) -> bool:
    """Return whether an image must be decoded, whatever it is near to: it has no picture, or may be flagged itself."""
    width, height, small = picture
    if small is None or max(width, height) > _MOST_ASPECT * min(width, height):
        return True
    return bool(small.std() < _LEAST_CONTRAST) or could_have_border(small)


def pictures_version(records: Records) -> int | None:
    """Return the version of the rule that made the stored pictures; None without pictures."""
    found = records.manifest.source.get("treatment", {}).get("small_pictures")
    return None if found is None else int(found)


def open_pictures(records: Records) -> StoredPictures | None:
    """Return the pictures that are stored with RECORDS; None without, and for those of another version.

    Every table is compared with its SHA-256 first. Raises ArtefactError for one that is damaged.
    """
    if pictures_version(records) != SMALL_VERSION:
        return None
    groups: list[_Group] = []
    first = 0
    for name, entry in records.manifest.splits.items():
        for shard in entry.shards:
            path = shard_index_path(records.root / name / shard.name)
            _require_whole(path, records.manifest.plan_id)
            counts = _rows_of_groups(path)
            if sum(counts) != shard.rows:
                raise _damaged(path, f"{sum(counts)} rows, the manifest says {shard.rows}")
            for group, rows in enumerate(counts):
                groups.append(_Group(path, group, first, first + rows))
                first += rows
    return StoredPictures(tuple(groups))


def _require_whole(path: Path, plan_id: str) -> None:
    """Raise ArtefactError unless a table is the one that the receipt of its shard names."""
    receipt = read_receipt(path.parent, path.stem, plan_id)
    files = [file for file in receipt["files"] if file["name"] == path.name] if receipt else []
    damage = file_damage(path.parent, files[0], deep=True) if files else f"{path}: no valid receipt names it"
    if damage:
        raise ArtefactError(f"{damage}; {HOW_TO_REPAIR}")


def _rows_of_groups(path: Path) -> list[int]:
    try:
        metadata = pq.read_metadata(path)
        has_pictures = "small" in metadata.schema.names
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, str(error).splitlines()[0]) from None
    if not has_pictures:
        raise _damaged(path, "it has no column `small`, which the manifest promises")
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


@lru_cache(maxsize=1)
def _read_group(path: Path, group: int) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=_COLUMNS)


def _pictures(path: Path, rows: pa.Table) -> Iterator[StoredPicture]:
    for width, height, small in zip(*(rows[name].to_pylist() for name in _COLUMNS), strict=True):
        if small is None:
            yield StoredPicture(width, height, None)
            continue
        if len(small) != SMALL_PX * SMALL_PX:
            raise _damaged(path, f"a picture of {len(small)} bytes")
        yield StoredPicture(width, height, np.frombuffer(small, np.uint8).reshape(SMALL_PX, SMALL_PX))


def _damaged(path: Path, why: str) -> ArtefactError:
    return ArtefactError(f"{path}: damaged ({why}); {HOW_TO_REPAIR}")
