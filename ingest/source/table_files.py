"""Where the images lie that a table names: on disk, or in archives that count as unpacked where they lie."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from convnext_imagenet.base.tars import Member
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.folders import Links, list_folder
from convnext_imagenet.ingest.source.own_archives import Archive, is_image_name
from convnext_imagenet.ingest.source.samples import Sample
from convnext_imagenet.ingest.source.scan_types import ScanNotes, printable


class Files(Protocol):
    """Finds images by the paths that tables have."""

    def find(self, path: str) -> Sample | None:
        """Return the image at a path below DATA, without a label; None if it is not there."""

    def images_beside(self, paths: Collection[str]) -> Iterator[str]:
        """Yield what is named as an image in the folders of these samples' paths, and is none of them."""


@dataclass(frozen=True)
class FilesOnDisk:
    """Separate files below `root`."""

    root: Path
    links: Links

    def find(self, path: str) -> Sample | None:
        """Return the image at a path below DATA, without a label; None if it is not there."""
        try:
            status = (self.root / path).stat(follow_symlinks=self.links.follow)
        except (OSError, ValueError):
            return None
        return Sample(path, "", size=status.st_size, modified_ns=status.st_mtime_ns)

    def images_beside(self, paths: Collection[str]) -> Iterator[str]:
        """Yield the others in the folders of these paths. Raises IngestError for a link that leads out of DATA."""
        for folder in sorted({path.rpartition("/")[0] or "." for path in paths}):
            self.links.check_below(self.root, folder)
            for entry in list_folder(self.root, folder, ScanNotes()):
                path = entry.name if folder == "." else f"{folder}/{entry.name}"
                if is_image_name(entry.name) and path not in paths:
                    yield path


class FilesInArchives:
    """Members of archives. Each has two paths: those of an archive that is unpacked into its folder, or into one of its
    own name, as `images.zip` into `images/`.
    """

    def __init__(self, archives: Sequence[Archive]) -> None:
        self._archives = archives
        self._of_path: dict[str, list[tuple[Archive, Member]]] = defaultdict(list)
        for archive in archives:
            for name, member in archive.members.items():
                for above in (archive.folder, archive.unpacked_folder):
                    self._of_path[f"{above}/{name}".removeprefix("/")].append((archive, member))

    def find(self, path: str) -> Sample | None:
        """Return the image at a path below DATA, without a label; None if it is not there.

        Raises IngestError for a path that several archives have.
        """
        found = self._of_path.get(path, [])
        if len(found) > 1:
            names = " and ".join(sorted({archive.name for archive, _ in found}))
            raise IngestError(f"{printable(path)}: is in {names}; keep one of them, or write the folder into the table")
        return found[0][0].sample(found[0][1], "", "") if found else None

    def images_beside(self, paths: Collection[str]) -> Iterator[str]:
        """Yield the others in the folders of these paths."""
        folders = {PurePosixPath(path).parent for path in paths}
        for archive in self._archives:
            for name in archive.members:
                path = PurePosixPath(archive.name, name)
                if is_image_name(name) and path.parent in folders and str(path) not in paths:
                    yield str(path)
