"""Where the images lie that a table names: on disk, or in archives that count as unpacked where they lie.

A name without a folder, as Kaggle's tables have it, may also be that of an image in a folder beside the table, with or
without its ending.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

from convnext_imagenet.base.tars import Member
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.folders import Links, folder_names, is_folder, list_folder
from convnext_imagenet.ingest.source.own_archives import Archive, is_image_name
from convnext_imagenet.ingest.source.samples import Sample
from convnext_imagenet.ingest.source.scan_types import ScanNotes, printable


class Files(Protocol):
    """Finds images by the paths that tables have."""

    def find(self, path: str) -> Sample | None:
        """Return the image that a path below DATA means, without a label; None if it is not there."""

    def images_beside(self, paths: Collection[str]) -> Iterator[str]:
        """Yield what is named as an image, and is none of these samples' paths."""

    def similar(self, path: str) -> str:
        """Return an image's path that differs only by case, Unicode form or percent-encoding; "" if there is none."""


class FilesOnDisk:
    """Separate files below `root`."""

    def __init__(self, root: Path, links: Links) -> None:
        self._root, self._links = root, links

    @cached_property
    def _beside(self) -> dict[str, list[str]]:
        return _by_own_name(self._in_folders())

    def find(self, path: str) -> Sample | None:
        """Return the image that a path below DATA means, without a label; None if it is not there.

        Raises IngestError for a name that images in several folders have.
        """
        if (found := self._at(path)) is not None or "/" in path:
            return found
        beside = _only_one(path, self._beside.get(path, []))
        return self._at(beside) if beside else None

    def _at(self, path: str) -> Sample | None:
        try:
            status = (self._root / path).stat(follow_symlinks=self._links.follow)
        except (OSError, ValueError):
            return None
        return Sample(path, "", size=status.st_size, modified_ns=status.st_mtime_ns)

    def _in_folders(self) -> Iterator[str]:
        for folder in folder_names(self._root):
            self._links.check(self._root / folder)
            yield from (f"{folder}/{entry.name}" for entry in list_folder(self._root, folder, ScanNotes()))

    def images_beside(self, paths: Collection[str]) -> Iterator[str]:
        """Yield the others below DATA; links to folders are followed only where these paths lead through them.

        Raises IngestError for such a link that leads out of DATA.
        """
        used = {path.rpartition("/")[0] or "." for path in paths}
        for folder in sorted(used):
            self._links.check_below(self._root, folder)
        for folder in sorted(used.union(self._folders("."))):
            for entry in list_folder(self._root, folder, ScanNotes()):
                path = _joined(folder, entry.name)
                if is_image_name(entry.name) and not is_folder(entry) and path not in paths:
                    yield path

    def similar(self, path: str) -> str:
        """Return an image's path that differs only by case, Unicode form or percent-encoding; "" if there is none."""
        return _similar(path, self.images_beside(()))

    def _folders(self, folder: str) -> Iterator[str]:
        yield folder
        for entry in list_folder(self._root, folder, ScanNotes()):
            if is_folder(entry) and not entry.is_symlink():
                yield from self._folders(_joined(folder, entry.name))


class FilesInArchives:
    """Members of archives. Each has two paths: those of an archive that is unpacked into its folder, or into one of its
    own name, as `images.zip` into `images/`.
    """

    def __init__(self, archives: Sequence[Archive]) -> None:
        self._archives = archives

    @cached_property
    def _of_path(self) -> dict[str, list[tuple[Archive, Member]]]:
        found: dict[str, list[tuple[Archive, Member]]] = defaultdict(list)
        for archive in self._archives:
            for name, member in archive.members.items():
                for above in (archive.folder, archive.unpacked_folder):
                    found[_joined(above, name)].append((archive, member))
        return found

    @cached_property
    def _beside(self) -> dict[str, list[str]]:
        return _by_own_name(_joined(archive.folder, name) for archive in self._archives for name in archive.members)

    def find(self, path: str) -> Sample | None:
        """Return the image that a path below DATA means, without a label; None if it is not there.

        Raises IngestError for a path that several archives have, and a name that several images have.
        """
        if path not in self._of_path and "/" not in path:
            path = _only_one(path, self._beside.get(path, []))
        found = self._of_path.get(path, [])
        if not found:
            return None
        names = {f"{archive.name}/{member.name}" for archive, member in found}
        _only_one(path, sorted(names))
        archive, member = found[0]
        return archive.sample(member, "", "")

    def images_beside(self, paths: Collection[str]) -> Iterator[str]:
        """Yield the others in these archives."""
        for archive in self._archives:
            for name in archive.members:
                path = f"{archive.name}/{name}"
                if is_image_name(name) and path not in paths:
                    yield path

    def similar(self, path: str) -> str:
        """Return an image's path that differs only by case, Unicode form or percent-encoding; "" if there is none."""
        return _similar(path, self._of_path)


def _similar(path: str, others: Iterable[str]) -> str:
    wanted = _without_form(path)
    return next((other for other in others if _without_form(other) == wanted), "")


def _without_form(path: str) -> str:
    return unicodedata.normalize("NFC", unquote(path)).casefold()


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder not in ("", ".") else name


def _by_own_name(paths: Iterable[str]) -> dict[str, list[str]]:
    """Return the images by their own names, and by these without ending."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if is_image_name(path):
            name = PurePosixPath(path)
            found[name.name].append(path)
            found[name.stem].append(path)
    return found


def _only_one(name: str, paths: Sequence[str]) -> str:
    """Return the only path, empty if there is none. Raises IngestError for several."""
    if len(paths) > 1:
        raise IngestError(
            f"{printable(name)}: may be {printable(paths[0])} or {printable(paths[1])}; write the folder into the table"
        )
    return paths[0] if paths else ""
