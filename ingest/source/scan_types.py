"""What a scan of the raw data found: names, sizes and places of images, before anybody asks for labels.

Built for 1.3 million files: names in tuples, numbers in arrays.
"""

import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """Images that lie together, in a folder or in a tar: their path below DATA, names, and sizes in bytes.

    `offsets` are the images' first bytes in the outermost tar, -1 for files of their own; `modified_ns` are the times
    of modification, -1 when not known. Left empty, both stand for -1 throughout.
    """

    path: str
    names: tuple[str, ...]
    sizes: array
    offsets: array = field(default_factory=lambda: array("q"))
    modified_ns: array = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        for column in (self.offsets, self.modified_ns):
            if not column:
                column.extend([-1] * len(self.names))

    @property
    def class_name(self) -> str:
        """The last part of the path, without the ending of a tar."""
        return self.path.rpartition("/")[2].removesuffix(".tar")


@dataclass(frozen=True)
class SplitScan:
    """One split: `is_flat` when the images lie in one heap, not by class. `archive` says how a tar holds them."""

    name: str
    is_flat: bool
    folders: tuple[Folder, ...]
    archive: str = ""

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
        """The size of all images."""
        return sum(sum(folder.sizes) for folder in self.folders)


@dataclass
class EntryCount:
    """How many entries there were of some kind, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, path: str) -> None:
        """Count one more entry."""
        self.first = self.first or printable(path)
        self.count += 1


@dataclass(frozen=True)
class ScanNotes:
    """What a scan notes on its way: entries left aside (hidden, no images), and images that are no plain files."""

    ignored: EntryCount = field(default_factory=EntryCount)
    not_plain: EntryCount = field(default_factory=EntryCount)


@dataclass(frozen=True)
class TreeScan:
    """The raw data: both splits, the files that tell the labels (None when not there), and what the scan noted."""

    train: SplitScan
    val: SplitScan
    devkit: Path | None
    kaggle: Path | None = None
    notes: ScanNotes = field(default_factory=ScanNotes)
    follows_links: bool = False


def printable(path: os.PathLike[str] | str) -> str:
    """A path or name as it can be printed on one line of any terminal."""
    name = os.fspath(path)
    return name if name.isprintable() else ascii(name)
