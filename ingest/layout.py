"""The raw tree as it is found: which folders and files, how large, and where the devkit is.

Looks at names and sizes only and opens no image. Ends at `train/CLASS/FILE`: since the depth is fixed, links to
folders can be followed without running in circles. Built for 1.3 million files: names in tuples, sizes in arrays.
"""

import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from convnext_imagenet.ingest.errors import IngestError

IMAGE_ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_DEVKIT_ENDINGS = (".tar.gz", ".tgz", ".tar")
_EXPECTED = "expected train/ and val/ in DATA, as in train/n01440764/n01440764_10026.JPEG"


@dataclass(frozen=True)
class Folder:
    """A folder of images: its path below DATA, the names in ascending byte order, and the sizes in bytes."""

    path: str
    names: tuple[str, ...]
    sizes: array

    @property
    def class_name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class SplitScan:
    """One split: `is_flat` when the images lie in the split's folder itself, not in class folders."""

    name: str
    is_flat: bool
    folders: tuple[Folder, ...]

    @property
    def files(self) -> int:
        """The number of images."""
        return sum(len(folder.names) for folder in self.folders)

    @property
    def bytes(self) -> int:
        """The size of all images."""
        return sum(sum(folder.sizes) for folder in self.folders)


@dataclass
class Ignored:
    """How many entries were left aside because they are hidden or no images, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, path: str) -> None:
        """Count one more entry."""
        self.first = self.first or path
        self.count += 1


@dataclass(frozen=True)
class TreeScan:
    """The raw tree: both splits, the devkit beside them (None when there is none), and what was left aside."""

    train: SplitScan
    val: SplitScan
    devkit: Path | None
    ignored: Ignored = field(default_factory=Ignored)


def scan_tree(root: Path) -> TreeScan:
    """The layout of the raw tree at `root`; IngestError when it is not one."""
    if not root.is_dir():
        problem = "not a folder" if root.exists() else "no such folder"
        raise IngestError(f"{root}: {problem}; give the folder of a raw ImageNet tree, or try `make demo`")
    for name in ("train", "val"):
        if not (root / name).is_dir():
            raise IngestError(f"{root}: has no folder {name}/; {_EXPECTED}")
    ignored = Ignored()
    train, val = (_scan_split(root, name, ignored) for name in ("train", "val"))
    if train.is_flat:
        raise IngestError(
            f"{root}: train/ holds images outside class folders, such as {train.folders[0].names[0]!r}; {_EXPECTED}"
        )
    return TreeScan(train, val, find_devkit(root), ignored)


def find_devkit(root: Path) -> Path | None:
    """The devkit beside train/ and val/: a folder or tar whose name holds "devkit", the t12 one first."""

    def preference(path: Path) -> tuple[bool, bool, bytes]:
        return "_t12" not in path.name, path.is_dir(), os.fsencode(path.name)

    found = [path for path in root.iterdir() if "devkit" in path.name.lower() and _may_be_devkit(path)]
    return min(found, key=preference, default=None)


def _may_be_devkit(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return (path.is_file() and path.name.endswith(_DEVKIT_ENDINGS)) or (path / "data").is_dir()


def _scan_split(root: Path, split: str, ignored: Ignored) -> SplitScan:
    subfolders: list[os.DirEntry] = []
    loose: list[os.DirEntry] = []
    for entry in _entries(root, split, ignored):
        (subfolders if entry.is_dir() else loose).append(entry)
    flat = _folder(root, split, loose, ignored)
    if not subfolders:
        if not flat.names:
            raise IngestError(f"{root / split}: holds no images and no class folders; {_EXPECTED}")
        return SplitScan(split, True, (flat,))
    if flat.names:
        raise IngestError(
            f"{root / split}: holds both class folders, such as {subfolders[0].name!r}, "
            f"and loose images, such as {flat.names[0]!r}; it must be one or the other"
        )
    _refuse_same_folder_twice(subfolders)
    paths = [f"{split}/{entry.name}" for entry in subfolders]
    folders = (_folder(root, path, list(_entries(root, path, ignored)), ignored) for path in paths)
    return SplitScan(split, False, tuple(folders))


def _entries(root: Path, relative: str, ignored: Ignored) -> Iterator[os.DirEntry]:
    """The entries of a folder in byte order of their names, without the hidden ones."""
    try:
        with os.scandir(root / relative) as scan:
            entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise IngestError(f"{root / relative}: cannot be listed ({error.strerror}); mend its rights") from None
    for entry in entries:
        if entry.name.startswith("."):
            ignored.add(f"{relative}/{entry.name}")
        else:
            yield entry


def _folder(root: Path, relative: str, entries: list[os.DirEntry], ignored: Ignored) -> Folder:
    names: list[str] = []
    sizes = array("q")
    for entry in entries:
        try:
            status = entry.stat()
        except OSError as error:
            raise IngestError(
                f"{entry.path}: cannot be looked at ({error.strerror}); is it a link to nowhere? mend or remove it"
            ) from None
        if stat.S_ISDIR(status.st_mode):
            raise IngestError(f"{entry.path}: a folder inside a class folder; {_EXPECTED}")
        if not entry.name.lower().endswith(IMAGE_ENDINGS):
            ignored.add(f"{relative}/{entry.name}")
        elif not stat.S_ISREG(status.st_mode):
            raise IngestError(f"{entry.path}: not a regular file; remove it from the tree")
        else:
            names.append(entry.name)
            sizes.append(status.st_size)
    return Folder(relative, tuple(names), sizes)


def _refuse_same_folder_twice(entries: list[os.DirEntry]) -> None:
    seen: dict[tuple[int, int], str] = {}
    for entry in entries:
        status = entry.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), entry.path)
        if first != entry.path:
            raise IngestError(f"{entry.path}: leads to the same folder as {first}; remove one of the two links")
