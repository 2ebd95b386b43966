"""Class folders and flat folders of images on disk, listed without opening a file or following a link unasked.

No file is left out because of its name, unless it is known junk: what is an image is decided by its content, later.
The scan ends at `SPLIT/CLASS/FILE`: with a fixed depth, even links that are followed cannot lead in circles.
Knows nothing of labels.
"""

import os
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path

from convnext_imagenet.base.wording import as_word
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.junk import junk_kind
from convnext_imagenet.ingest.source.samples import split_of_path
from convnext_imagenet.ingest.source.scan_types import WNID, Folder, ScanNotes, SplitScan, printable

# Beside class folders, a file with such a name is an image in the wrong place. Elsewhere names decide nothing.
IMAGE_ENDINGS = (
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png"),
    *(".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif"),
)
ARCHIVE_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
EXPECTED = "expected train/ and val/ in DATA, with files such as train/n01440764/n01440764_10026.JPEG"


class Links:
    """Which symbolic links may be followed: those that stay inside DATA, or with `follow` all."""

    def __init__(self, root: Path, follow: bool) -> None:
        self._root = root.resolve()
        self.follow = follow

    def check(self, path: Path) -> None:
        """Raise IngestError when `path` is a link that leads nowhere or may not be followed."""
        if not path.is_symlink():
            return
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            raise IngestError(f"{printable(path)}: a broken or circular link; fix or remove it") from None
        if not self.follow and not target.is_relative_to(self._root):
            raise IngestError(
                f"{printable(path)}: a link out of DATA, to {printable(target)}; to follow it, pass --follow-links"
            )

    def check_below(self, root: Path, relative: str) -> None:
        """Check a path below `root` and every folder on the way to it, as `check` does."""
        path = root
        for part in Path(relative).parts:
            path = path / part
            self.check(path)


def scan_folders(
    root: Path, name: str, path: str, links: Links, notes: ScanNotes, apart: frozenset[str] = frozenset()
) -> SplitScan:
    """Return the split `name` in the folder `path` below `root`, flat or in class folders.

    Every file in a class folder, or in a flat folder, is an image or junk; its content is looked at later. `apart` are
    names to leave out, which are read elsewhere. Raises IngestError when there are no images, class folders and loose
    images or archives side by side, folders inside class folders, links that may not be followed, or names that cannot
    be printed; and when it cannot be listed.
    """
    subfolders: list[os.DirEntry] = []
    loose: list[os.DirEntry] = []
    for entry in list_folder(root, path, notes):
        if entry.name in apart:
            continue
        if is_folder(entry):
            subfolders.append(entry)
            notes.found -= 1
        else:
            if entry.is_symlink() and not _is_named_as_image(entry):
                links.check(Path(entry.path))  # a broken link may stand for a class folder: never ignore it silently
            loose.append(entry)
    if not subfolders and not apart:
        flat = _folder(path, loose, links, notes)
        if not flat.names:
            raise IngestError(f"{root / path}: contains no images and no class folders; {EXPECTED}")
        return SplitScan(name, True, (flat,), notes=notes)
    _note_loose(root / path, path, loose, notes)
    for entry in subfolders:
        links.check(Path(entry.path))
    _refuse_same_folder_twice(subfolders)
    paths = [f"{path}/{entry.name}" for entry in subfolders]
    folders = tuple(_folder(folder, list(list_folder(root, folder, notes)), links, notes) for folder in paths)
    return SplitScan(name, False, folders, notes=notes)


def _note_loose(folder: Path, relative: str, loose: list[os.DirEntry], notes: ScanNotes) -> None:
    """Note files beside class folders. Raises IngestError for an image or an archive: its class would be lost."""
    for entry in loose:
        if _is_named_as_image(entry):
            raise IngestError(
                f"{folder}: contains both class folders and loose images, such as {entry.name!r}; "
                f"move either of them elsewhere"
            )
        if entry.name.lower().endswith(ARCHIVE_ENDINGS):
            raise IngestError(
                f"{printable(entry.path)}: an archive beside classes, so unpacking may have been interrupted; "
                f"unpack it, or move it elsewhere"
            )
        notes.ignored.add(f"{relative}/{entry.name}")


def list_folder(root: Path, relative: str, notes: ScanNotes) -> Iterator[os.DirEntry]:
    """Yield the entries of a folder in byte order of their names; `notes` counts all, and the junk, which is ignored.

    Raises IngestError when it cannot be listed.
    """
    try:
        with os.scandir(root / relative) as scan:
            entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise IngestError(
            f"{printable(root / relative)}: cannot be listed ({error.strerror}); check its permissions"
        ) from None
    for entry in entries:
        notes.found += 1
        if kind := junk_kind(entry.name, is_folder(entry)):
            notes.ignored.add(f"{relative}/{entry.name}", kind)
        else:
            yield entry


def folder_names(root: Path, relative: str = ".") -> list[str]:
    """Return the names of the folders in a folder, without junk."""
    return [entry.name for entry in list_folder(root, relative, ScanNotes()) if is_folder(entry)]


def has_images(root: Path, relative: str) -> bool:
    """Return whether a folder holds a file that is named as an image."""
    entries = list_folder(root, relative, ScanNotes())
    return any(entry.name.lower().endswith(IMAGE_ENDINGS) and not is_folder(entry) for entry in entries)


def _folder(relative: str, entries: list[os.DirEntry], links: Links, notes: ScanNotes) -> Folder:
    names: list[str] = []
    sizes, times = array("q"), array("q")
    for entry in entries:
        status = _status(entry, links.follow)
        if stat.S_ISDIR(status.st_mode) or (entry.is_symlink() and is_folder(entry)):
            raise IngestError(
                f"{printable(entry.path)}: a folder inside a class folder; {_how_to_flatten(relative, entry.name)}"
            )
        if not entry.name.isprintable():
            raise IngestError(f"{printable(entry.path)}: the name is not printable UTF-8; rename the file")
        is_plain = stat.S_ISREG(status.st_mode)
        if not is_plain:
            notes.not_plain.add(f"{relative}/{entry.name}")
        names.append(entry.name)
        sizes.append(status.st_size if is_plain else 0)
        times.append(status.st_mtime_ns)
    return Folder(relative, tuple(names), sizes, modified_ns=times)


def _how_to_flatten(relative: str, name: str) -> str:
    split, _, folder = relative.rpartition("/")
    if folder in ("train", "val"):
        return f"{folder}/ was unpacked inside {split}/: move all of {relative}/ up to {split}/"
    if split == "." and (named := split_of_path(folder)):
        return (
            f"if {printable(folder)}/ is the split {named}, rename it to {named}/, or make a link: "
            f"ln -s {as_word(printable(folder))} DATA/{named}"
        )
    if name == "images":
        return "move the images one level up, as in train/n01440764/n01440764_10026.JPEG"
    if split := split_of_path(folder):
        return (
            f"if {printable(folder)} is the split {split}, rename it or make a link: "
            f"ln -s {as_word(printable(folder))} {split}"
        )
    if not WNID.fullmatch(folder):
        return (
            f"if {printable(folder)} is a split, rename it to train, val or test; if it is above the classes, pass it "
            f"as DATA; if it is a class and {printable(name)} a group of its images, pass --group-by folder"
        )
    return f"{EXPECTED}; move the folder elsewhere"


def _status(entry: os.DirEntry, follow: bool) -> os.stat_result:
    """Return the status of an entry; of a broken link, the status of the link."""
    try:
        try:
            return entry.stat(follow_symlinks=follow)
        except OSError:
            if not (follow and entry.is_symlink()):
                raise
            return entry.stat(follow_symlinks=False)
    except OSError as error:
        raise IngestError(f"{printable(entry.path)}: cannot be examined ({error.strerror}); fix or remove it") from None


def _is_named_as_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(IMAGE_ENDINGS)


def is_folder(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def _refuse_same_folder_twice(entries: list[os.DirEntry]) -> None:
    seen: dict[tuple[int, int], str] = {}
    for entry in entries:
        status = entry.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), entry.path)
        if first != entry.path:
            raise IngestError(
                f"{printable(entry.path)}: links to the same folder as {printable(first)}; remove one of the two"
            )
