"""Archives of images with any names: tar, tar.gz and zip, opened and listed in one way; their images stay in them.

A tar and a zip are read in place, a tar.gz from its unpacked copy. Member names are compared, never used as paths.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from convnext_imagenet.base.tars import BadTar, Member, walk_tar
from convnext_imagenet.base.zips import BadZip, read_member, walk_zip
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.archive_kinds import another_kind
from convnext_imagenet.ingest.source.folders import IMAGE_ENDINGS, Links, folder_names, is_folder, list_folder
from convnext_imagenet.ingest.source.junk import junk_kind
from convnext_imagenet.ingest.source.safe_open import open_source
from convnext_imagenet.ingest.source.samples import Sample, split_of_word
from convnext_imagenet.ingest.source.scan_types import EntryCount, ScanNotes, printable
from convnext_imagenet.ingest.source.unpack import Unpacker

ZIP_ENDING = ".zip"
_GZIP_ENDINGS = (".tar.gz", ".tgz")
ENDINGS = (".tar", *_GZIP_ENDINGS, ZIP_ENDING)
_MOST_MEMBERS = 20_000_000
_KAGGLE_FOLDER = "ILSVRC/"


@dataclass(frozen=True)
class Archive:
    """An archive: its name below DATA, the file to read, the name of this file for the reader of images, its time.

    `members` are its files by their paths in it, without junk.
    """

    name: str
    file: Path
    container: str
    modified_ns: int
    members: dict[str, Member]

    @property
    def folder(self) -> str:
        """The folder of the archive below DATA, empty for the root."""
        return self.name.rpartition("/")[0]

    @property
    def unpacked_folder(self) -> str:
        """The folder of the archive's own name below DATA, such as images for images.tar.gz."""
        ending = next(ending for ending in ENDINGS if self.name.lower().endswith(ending))
        return self.name[: -len(ending)]

    def sample(self, member: Member, label: str, split: str) -> Sample:
        """Return the sample of an image in it."""
        path = f"{self.name}/{member.name}"
        return Sample(path, label, split, "", member.size, self.modified_ns, self.container, member.offset)

    def read(self, member: Member) -> bytes:
        """Return the bytes of a small member. Raises IngestError when a zip's member is damaged."""
        with self.file.open("rb") as file:
            if not self.name.lower().endswith(ZIP_ENDING):
                return os.pread(file.fileno(), member.size, member.offset)
            try:
                return read_member(file.fileno(), member.offset, member.size)
            except BadZip as error:
                raise IngestError(
                    f"{self.name}: {printable(member.name)}: damaged ({error}); download it again"
                ) from None


def is_image_name(name: str) -> bool:
    """Return whether a member is named as an image."""
    return name.lower().endswith(IMAGE_ENDINGS)


def find_archives(root: Path) -> list[str]:
    """Return the archives at the root and in its folders that name splits: paths below `root`."""
    found = []
    for folder in (".", *(name for name in folder_names(root) if split_of_word(name) or name == "data")):
        for entry in list_folder(root, folder, ScanNotes()):
            if entry.name.lower().endswith(ENDINGS) and not is_folder(entry):
                found.append(entry.name if folder == "." else f"{folder}/{entry.name}")
    return [name for name in found if "devkit" not in name.lower()]


def open_archives(
    root: Path, names: Sequence[str], links: Links, unpacker: Unpacker, ignored: EntryCount
) -> list[Archive]:
    """Return the archives with their files; `ignored` counts the junk in them.

    Raises IngestError for an archive that is damaged or encrypted, that holds links or a name twice, whose names lead
    out of it, or that is Kaggle's ImageNet.
    """
    archives = []
    for name in names:
        links.check_below(root, name)
        if name.lower().endswith(_GZIP_ENDINGS):
            path = unpacker.tar_of(root, name)
            container = str(path.absolute())
        else:
            path, container = root / name, name
        members = _files(root / name, path, name, ignored)
        archives.append(Archive(name, path, container, path.stat().st_mtime_ns, members))
    return archives


def walk_file(path: Path, title: str) -> Iterator[Member]:
    """Yield the members of a tar or zip. Raises IngestError for a damaged one, which messages call `title`."""
    descriptor = open_source(path, follow_links=True)  # the caller has checked where a link leads
    if descriptor is None:
        raise IngestError(f"{title}: not a plain file; put the archive there")
    with FileIO(descriptor) as file:
        try:
            if path.name.lower().endswith(ZIP_ENDING):
                yield from walk_zip(file)
            else:
                yield from walk_tar(file, 0, path.stat().st_size)
        except (BadTar, BadZip) as error:
            if kind := another_kind(path, title):
                raise IngestError(f"{title}: not what its name says, but {kind}") from None
            if isinstance(error, BadZip):
                raise IngestError(f"{title}: {error}; unpack it and pass the folder, or download it again") from None
            raise IngestError(f"{title}: damaged or truncated ({error}); download it again") from None


def _files(title: Path, path: Path, name: str, ignored: EntryCount) -> dict[str, Member]:
    members: dict[str, Member] = {}
    for member in walk_file(path, str(title)):
        if member.kind == "folder":
            continue
        inner = member.name.removeprefix("./")
        _refuse_member(title, member, inner in members)
        *folders, own = inner.split("/")
        kinds = (junk_kind(own, is_folder=False), *(junk_kind(each, is_folder=True) for each in folders))
        if kind := next(filter(None, kinds), None):
            ignored.add(f"{name}/{inner}", kind)
            continue
        members[inner] = member._replace(name=inner)
        if len(members) > _MOST_MEMBERS:
            raise IngestError(f"{title}: contains more than {_MOST_MEMBERS:,} files; split it")
    return members


def _refuse_member(title: Path, member: Member, is_twice: bool) -> None:
    name = printable(member.name)[:200]
    if member.kind != "file":
        raise IngestError(f"{title}: contains {name!r} ({member.kind}); pack it again")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise IngestError(f"{title}: contains {name!r}, a path that is absolute or leads out by ..; pack it again")
    if is_twice:
        raise IngestError(f"{title}: contains {name!r} twice; pack it again from a folder")
    if member.name.startswith(_KAGGLE_FOLDER):
        raise IngestError(f"{title}: ImageNet as Kaggle ships it; unpack it, and pass the folder that holds ILSVRC/")
