"""Class folders and flat folders of images on disk, listed without opening or following anything unasked.

Ends at `SPLIT/CLASS/FILE`: the depth is fixed, so that even links that are followed cannot lead in circles.
"""

import os
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.scan_types import Folder, ScanNotes, SplitScan, printable

IMAGE_ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
EXPECTED = "expected train/ and val/ in DATA, as in train/n01440764/n01440764_10026.JPEG"


class Links:
    """Which symbolic links may be followed: those that stay in DATA, and with `follow` all of them."""

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
            raise IngestError(f"{printable(path)}: a link to nowhere or in a circle; mend or remove it") from None
        if not self.follow and not target.is_relative_to(self._root):
            raise IngestError(
                f"{printable(path)}: a link out of DATA, to {printable(target)}; if that is meant, pass --follow-links"
            )


def scan_folders(root: Path, name: str, path: str, links: Links, notes: ScanNotes) -> SplitScan:
    """The split `name` in the folder `path` below `root`, flat or in class folders.

    Raises IngestError when it holds no images, class folders and loose images side by side, folders inside class
    folders, links that may not be followed, or names that cannot be printed; and when it cannot be listed.
    """
    subfolders: list[os.DirEntry] = []
    loose: list[os.DirEntry] = []
    for entry in list_folder(root, path, notes):
        if _is_folder(entry):
            subfolders.append(entry)
        elif entry.is_symlink() and not _is_named_as_image(entry):
            links.check(Path(entry.path))  # a class folder that has gone is not to be left aside in silence
            notes.ignored.add(f"{path}/{entry.name}")
        else:
            loose.append(entry)
    flat = _folder(path, loose, links, notes)
    if not subfolders:
        if not flat.names:
            raise IngestError(f"{root / path}: holds no images and no class folders; {EXPECTED}")
        return SplitScan(name, True, (flat,))
    if flat.names:
        raise IngestError(
            f"{root / path}: holds both class folders, such as {subfolders[0].name!r}, "
            f"and loose images, such as {flat.names[0]!r}; it must be one or the other"
        )
    for entry in subfolders:
        links.check(Path(entry.path))
    _refuse_same_folder_twice(subfolders)
    paths = [f"{path}/{entry.name}" for entry in subfolders]
    folders = tuple(_folder(folder, list(list_folder(root, folder, notes)), links, notes) for folder in paths)
    return SplitScan(name, False, folders)


def list_folder(root: Path, relative: str, notes: ScanNotes) -> Iterator[os.DirEntry]:
    """The entries of a folder in byte order of their names, without the hidden ones, which `notes` counts.

    Raises IngestError when it cannot be listed.
    """
    try:
        with os.scandir(root / relative) as scan:
            entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise IngestError(
            f"{printable(root / relative)}: cannot be listed ({error.strerror}); mend its rights"
        ) from None
    for entry in entries:
        if entry.name.startswith("."):
            notes.ignored.add(f"{relative}/{entry.name}")
        else:
            yield entry


def _folder(relative: str, entries: list[os.DirEntry], links: Links, notes: ScanNotes) -> Folder:
    names: list[str] = []
    sizes, times = array("q"), array("q")
    for entry in entries:
        status = _status(entry, links.follow)
        if stat.S_ISDIR(status.st_mode) or (entry.is_symlink() and _is_folder(entry)):
            raise IngestError(f"{printable(entry.path)}: a folder inside a class folder; {EXPECTED}")
        if not _is_named_as_image(entry):
            notes.ignored.add(f"{relative}/{entry.name}")
            continue
        if not entry.name.isprintable():
            raise IngestError(f"{printable(entry.path)}: the name is not printable UTF-8; rename the file")
        is_plain = stat.S_ISREG(status.st_mode)
        if not is_plain:
            notes.not_plain.add(f"{relative}/{entry.name}")
        names.append(entry.name)
        sizes.append(status.st_size if is_plain else 0)
        times.append(status.st_mtime_ns)
    return Folder(relative, tuple(names), sizes, modified_ns=times)


def _status(entry: os.DirEntry, follow: bool) -> os.stat_result:
    """What an entry is; a link that leads nowhere is a link, whether followed or not."""
    try:
        try:
            return entry.stat(follow_symlinks=follow)
        except OSError:
            if not (follow and entry.is_symlink()):
                raise
            return entry.stat(follow_symlinks=False)
    except OSError as error:
        raise IngestError(
            f"{printable(entry.path)}: cannot be looked at ({error.strerror}); mend or remove it"
        ) from None


def _is_named_as_image(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(IMAGE_ENDINGS)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _refuse_same_folder_twice(entries: list[os.DirEntry]) -> None:
    seen: dict[tuple[int, int], str] = {}
    for entry in entries:
        status = entry.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), entry.path)
        if first != entry.path:
            raise IngestError(
                f"{printable(entry.path)}: leads to the same folder as {printable(first)}; remove one of the two links"
            )
