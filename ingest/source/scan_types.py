"""What a scan of the raw data finds: names, sizes and positions of images. Knows nothing of labels.

For 1.3 million files: names are in tuples, numbers in arrays.
"""

import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """The images of one folder or one tar: its path below DATA, their names, and their sizes in bytes.

    `offsets` are the positions of the images' first bytes in the outermost tar, -1 for separate files; `modified_ns`
    are the modification times in ns, -1 when not known. If empty, all are -1.
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
    """One split: `is_flat` if all images are in one folder. `archive` says in words how a tar contains them."""

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
        """The size of all images in bytes."""
        return sum(sum(folder.sizes) for folder in self.folders)


@dataclass
class EntryCount:
    """The number of entries of some kind, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, path: str) -> None:
        """Count one entry."""
        self.first = self.first or printable(path)
        self.count += 1


@dataclass(frozen=True)
class ScanNotes:
    """What a scan notes: ignored entries (hidden, or not an image), and images that are not plain files."""

    ignored: EntryCount = field(default_factory=EntryCount)
    not_plain: EntryCount = field(default_factory=EntryCount)


@dataclass(frozen=True)
class TreeScan:
    """The raw data: both splits, the sources of labels (None if missing), and the notes of the scan."""

    train: SplitScan
    val: SplitScan
    devkit: Path | None
    kaggle: Path | None = None
    notes: ScanNotes = field(default_factory=ScanNotes)
    follows_links: bool = False


def printable(path: os.PathLike[str] | str) -> str:
    """Return a path or name in a form that every terminal can print on one line."""
    name = os.fspath(path)
    return name if name.isprintable() else ascii(name)
