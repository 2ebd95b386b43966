"""What a scan of the raw data finds: names, sizes and positions of images. Knows nothing of labels.

For 1.3 million files: names are in tuples, numbers in arrays.
"""

import os
import re
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_MOST_NAMES = 50
WNID = re.compile(r"n[0-9]{8}")
_WITH_WNID = re.compile(r"(?:n[0-9]{8}_[0-9]+|ILSVRC2012_val_[0-9]{8})_(n[0-9]{8})\.[A-Za-z]{1,8}")


@dataclass(frozen=True)
class Folder:
    """The images of one folder or one tar: its path below DATA, their names, and their sizes in bytes.

    `offsets` are the positions of the images' first bytes in the outermost tar, -1 for separate files; `modified_ns`
    are the modification times in ns, -1 when not known. If empty, all are -1. `container` is the file of these offsets,
    if the path does not say it. `label` is the class, if the path does not say it.
    """

    path: str
    names: tuple[str, ...]
    sizes: array
    offsets: array = field(default_factory=lambda: array("q"))
    modified_ns: array = field(default_factory=lambda: array("q"))
    container: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        for column in (self.offsets, self.modified_ns):
            if not column:
                column.extend([-1] * len(self.names))

    @property
    def class_name(self) -> str:
        """The label, or else the last part of the path, without the ending of a tar."""
        return self.label or self.path.rpartition("/")[2].removesuffix(".tar")


@dataclass
class EntryCount:
    """The number of entries of some kind, the first of them, and how many have each name or pattern of names."""

    count: int = 0
    first: str = ""
    names: Counter[str] = field(default_factory=Counter)

    def add(self, path: str, name: str = "") -> None:
        """Count one entry under `name`, or else under the last part of its path."""
        self.first = self.first or printable(path)
        self.count += 1
        self.names[printable(name or path.rpartition("/")[2])] += 1

    def __add__(self, other: "EntryCount") -> "EntryCount":
        """Return the count of both."""
        return EntryCount(self.count + other.count, self.first or other.first, self.names + other.names)

    def by_name(self) -> dict[str, int]:
        """Return the counts by name; many names become one for each ending, so that a manifest stays short."""
        if len(self.names) <= _MOST_NAMES:
            return dict(sorted(self.names.items()))
        endings: Counter[str] = Counter()
        for name, count in self.names.items():
            endings[f"*.{name.rpartition('.')[2]}" if "." in name else "*"] += count
        return dict(sorted(endings.items()))


@dataclass
class ScanNotes:
    """What the scan of a split notes: `ignored` entries (junk, and files outside class folders), images that are not
    plain files, and the number of all entries that were `found`, class folders not counted.
    """

    ignored: EntryCount = field(default_factory=EntryCount)
    not_plain: EntryCount = field(default_factory=EntryCount)
    found: int = 0


@dataclass(frozen=True)
class SplitScan:
    """One split: `is_flat` if all images are in one folder. `archive` says in words how a tar contains them."""

    name: str
    is_flat: bool
    folders: tuple[Folder, ...]
    archive: str = ""
    notes: ScanNotes = field(default_factory=ScanNotes)

    @property
    def shape(self) -> str:
        """The layout in words."""
        return self.archive or ("flat" if self.is_flat else "class folders")

    @property
    def files(self) -> int:
        """The number of images."""
        return sum(len(folder.names) for folder in self.folders)

    @property
    def bytes(self) -> int:
        """The size of all images in bytes."""
        return sum(sum(folder.sizes) for folder in self.folders)


@dataclass(frozen=True)
class TreeScan:
    """The raw data: both splits, and the sources of labels (None if missing)."""

    train: SplitScan
    val: SplitScan
    devkit: Path | None
    kaggle: Path | None = None
    follows_links: bool = False

    @property
    def notes(self) -> ScanNotes:
        """The notes of both splits."""
        train, val = self.train.notes, self.val.notes
        return ScanNotes(train.ignored + val.ignored, train.not_plain + val.not_plain, train.found + val.found)


def has_wnid_at_end(name: str) -> bool:
    """Return whether a file is named as in Hugging Face's imagenet-1k."""
    return bool(_WITH_WNID.fullmatch(name))


def by_suffix(folder: Folder) -> tuple[Folder, ...] | None:
    """Return the images of a flat folder by the wnid at the end of their names, as Hugging Face has them.

    None if a name has no wnid at its end.
    """
    of_wnid: dict[str, list[int]] = {}
    for number, name in enumerate(folder.names):
        if (match := _WITH_WNID.fullmatch(name)) is None:
            return None
        of_wnid.setdefault(match[1], []).append(number)

    def chosen(column: array, numbers: list[int]) -> array:
        return array("q", (column[number] for number in numbers))

    return tuple(
        Folder(
            folder.path,
            tuple(folder.names[number] for number in numbers),
            chosen(folder.sizes, numbers),
            chosen(folder.offsets, numbers),
            chosen(folder.modified_ns, numbers),
            folder.container,
            wnid,
        )
        for wnid, numbers in sorted(of_wnid.items())
    )


def printable(path: os.PathLike[str] | str) -> str:
    """Return a path or name in a form that every terminal can print on one line."""
    name = os.fspath(path)
    return name if name.isprintable() else ascii(name)
