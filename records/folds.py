"""Parts of the rows of a split that take turns in being left out of a training: a pure function of stored images.

An audit that knows copies writes them to a file, so that an image and its copies are in one fold. The file's name has
a digest of its content: whoever names the file, such as a RUN, names the content.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import write_atomically
from convnext_imagenet.records.index import read_columns, shard_index_path
from convnext_imagenet.records.manifest import SplitEntry

if TYPE_CHECKING:  # importing it loads MindSpore, which a configuration must not
    from convnext_imagenet.records.reader import Split

_FOLD = re.compile(r"([1-9]\d{0,3})/([1-9]\d{0,3})")
_COPIES_FILE = re.compile(r"copies-([0-9a-f]{16})\.csv")
_COPIES_HEAD = "sha256,copy_of"


def parse_fold(text: str) -> tuple[int, int] | None:
    """Return K and N of "K/N", a fold and the number of folds, with 1 <= K <= N and N >= 2; None for other texts."""
    match = _FOLD.fullmatch(text)
    if match is None:
        return None
    fold, count = int(match[1]), int(match[2])
    return (fold, count) if fold <= count and count >= 2 else None


def assign_folds(sha256s: Sequence[str], count: int, copy_of: Mapping[str, str] | None = None) -> np.ndarray:
    """Return the fold of each image, 1 to `count`, int64, keyed by the hexadecimal SHA-256 of its bytes.

    So equal files are in one fold, and an image is in the same fold whatever else is stored. `copy_of` names for some
    images the one whose fold they take.
    """
    known = copy_of or {}
    keys = (f"fold {known.get(text, text)}".encode() for text in sha256s)
    digests = b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in keys)
    return (np.frombuffer(digests, "<u8") % np.uint64(count)).astype(np.int64) + 1


def folds_of(split: "Split", count: int, copies: Path | None = None) -> np.ndarray:
    """Return the fold of each row of a split in stored order, as `assign_folds`; `copies` is a file of copies.

    Raises ArtefactError.
    """
    return _folds(split.entry, split.folder, count, copies)


def rows_outside(text: str, entry: SplitEntry, folder: Path, copies: str = "") -> np.ndarray:
    """Return the rows of a split in `folder` that are not in fold "K/N", rising, int64; all of them for other texts.

    `copies` is a file of copies, or "". Raises ArtefactError when it or a digest is needed and cannot be read.
    """
    fold = parse_fold(text)
    if fold is None:
        return np.arange(entry.rows)
    return np.flatnonzero(_folds(entry, folder, fold[1], Path(copies) if copies else None) != fold[0])


def stored_sha256s(split: "Split") -> list[str]:
    """Return the SHA-256 of the image of each row of a split in stored order. Raises ArtefactError."""
    return _sha256s(split.entry, split.folder)


def group_copies(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return for each image that pairs connect to one with a smaller SHA-256 the smallest one of all of these."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while (above := parent.get(text, text)) != text:
            parent[text] = parent.get(above, above)
            text = parent[text]
        return text

    for pair in pairs:
        low, high = sorted(map(root, pair))
        parent[high] = low
    return {text: found for text in sorted(parent) if (found := root(text)) != text}


def is_copies_file(path: str) -> bool:
    """Return whether a path names a file of copies."""
    return _COPIES_FILE.fullmatch(Path(path).name) is not None


def write_copies(folder: Path, copy_of: Mapping[str, str]) -> Path:
    """Write copies to a file in `folder`, which need not exist, and return its path. Raises OSError."""
    lines = [_COPIES_HEAD, *(f"{text},{found}" for text, found in sorted(copy_of.items()))]
    data = "".join(f"{line}\n" for line in lines).encode()
    path = folder / f"copies-{_digest(data)}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return path


def read_copies(path: Path) -> dict[str, str]:
    """Return the copies of a file. Raises ArtefactError when it is missing, or other than its name says."""
    name = _COPIES_FILE.fullmatch(path.name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtefactError(
            f"data.copies {path}: {error.strerror}; run the audit that wrote it again, or restore it"
        ) from None
    if name is None or name[1] != _digest(data):
        raise ArtefactError(f"data.copies {path}: other content than its name says; run the audit that wrote it again")
    pairs = (line.partition(",") for line in data.decode().splitlines()[1:])
    return {text: found for text, _, found in pairs}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _folds(entry: SplitEntry, folder: Path, count: int, copies: Path | None) -> np.ndarray:
    return assign_folds(_sha256s(entry, folder), count, None if copies is None else read_copies(copies))


def _sha256s(entry: SplitEntry, folder: Path) -> list[str]:
    tables = [read_columns(shard_index_path(folder / shard.name), ["sha256"]) for shard in entry.shards]
    return [text for table in tables for text in table["sha256"].to_pylist()]
