"""Parts of the rows of a split that take turns in being left out of a training: a pure function of stored images."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convnext_imagenet.records.index import read_columns, shard_index_path
from convnext_imagenet.records.manifest import SplitEntry

if TYPE_CHECKING:  # importing it loads MindSpore, which a configuration must not
    from convnext_imagenet.records.reader import Split

_FOLD = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})")


def parse_fold(text: str) -> tuple[int, int] | None:
    """Return K and N of "K/N", a fold and the number of folds, with 1 <= K <= N and N >= 2; None for other texts."""
    match = _FOLD.fullmatch(text)
    if match is None:
        return None
    fold, count = int(match[1]), int(match[2])
    return (fold, count) if fold <= count and count >= 2 else None


def assign_folds(sha256s: Sequence[str], count: int) -> np.ndarray:
    """Return the fold of each image, 1 to `count`, int64, keyed by the hexadecimal SHA-256 of its bytes.

    So equal files are in one fold, and an image is in the same fold whatever else is stored.
    """
    digests = b"".join(hashlib.blake2b(f"fold {text}".encode(), digest_size=8).digest() for text in sha256s)
    return (np.frombuffer(digests, "<u8") % np.uint64(count)).astype(np.int64) + 1


def folds_of(split: "Split", count: int) -> np.ndarray:
    """Return the fold of each row of a split in stored order, as `assign_folds`. Raises ArtefactError."""
    return _folds(split.entry, split.folder, count)


def rows_outside(text: str, entry: SplitEntry, folder: Path) -> np.ndarray:
    """Return the rows of a split in `folder` that are not in fold "K/N", rising, int64; all of them for other texts.

    Raises ArtefactError when the images' digests are needed and cannot be read.
    """
    fold = parse_fold(text)
    return np.arange(entry.rows) if fold is None else np.flatnonzero(_folds(entry, folder, fold[1]) != fold[0])


def _folds(entry: SplitEntry, folder: Path, count: int) -> np.ndarray:
    tables = [read_columns(shard_index_path(folder / shard.name), ["sha256"]) for shard in entry.shards]
    return assign_folds([text for table in tables for text in table["sha256"].to_pylist()], count)
