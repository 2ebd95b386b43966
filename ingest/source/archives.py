"""The official tars, read in place: one pass over the headers gives each image's position, nothing is unpacked.

Member names must be exactly the official ones. Anything else in a tar (paths, links, devices, sparse files) is refused
by name; folders and hidden files are counted and ignored. Knows nothing of labels.
"""

import hashlib
import os
import re
from array import array
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

from convnext_imagenet.base.tars import BadTar, Member, walk_tar
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.safe_open import kind_of_file, open_source
from convnext_imagenet.ingest.source.scan_types import Folder, ScanNotes, SplitScan, printable

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
# As image-net.org publishes them with the downloads.
OFFICIAL_MD5 = {
    TRAIN_TAR: "1d675b47d978889d74fa0da5fadfb00e",
    VAL_TAR: "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
}
CLASS_TAR = re.compile(r"n[0-9]{8}\.tar")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_[0-9]{8}\.JPEG")
_MOST_IMAGES = 4_000_000  # three times ImageNet: a tar of endless headers must not fill the memory
_READ_AHEAD_BYTES = 16 << 20  # a disk streams 148 GB faster than it seeks 1.3 million times (DECISIONS, 2026-11-23)
_HASH_CHUNK_BYTES = 4 << 20


def scan_train_tar(root: Path, notes: ScanNotes) -> SplitScan:
    """Return the train split in the official tar of class tars.

    Raises IngestError for a tar that cannot be read, is damaged, or contains other files than the official ones.
    """
    folders: dict[str, Folder] = {}
    with _open_archive(root / TRAIN_TAR) as file:
        time, end = _time_and_size(file)
        for member in _official_members(walk_tar(file, 0, end), CLASS_TAR, root / TRAIN_TAR, notes):
            path = f"{TRAIN_TAR}/{member.name}"
            if path in folders:
                raise IngestError(f"{root / path}: appears twice; {_fetch_hint(TRAIN_TAR)}")
            bounds = member.offset, member.offset + member.size
            folders[path] = _class_tar(file, root / path, path, bounds, time, notes)
            _refuse_flood(sum(len(folder.names) for folder in folders.values()), root / TRAIN_TAR)
    if not folders:
        raise IngestError(f"{root / TRAIN_TAR}: contains no class tar such as n01440764.tar; {_fetch_hint(TRAIN_TAR)}")
    return SplitScan("train", False, tuple(folders.values()), f"class tars in {TRAIN_TAR}", notes)


def scan_class_tars(root: Path, folder: str, names: list[str], notes: ScanNotes) -> SplitScan:
    """Return the train split in a folder of class tars: the official tar, unpacked once.

    Raises IngestError as `scan_train_tar` does.
    """
    folders = []
    for name in names:
        path = f"{folder}/{name}"
        with _open_archive(root / path) as file:
            time, end = _time_and_size(file)
            folders.append(_class_tar(file, root / path, path, (0, end), time, notes))
    return SplitScan("train", False, tuple(folders), "class tars", notes)


def scan_val_tar(root: Path, notes: ScanNotes) -> SplitScan:
    """Return the val split in the official flat tar.

    Raises IngestError as `scan_train_tar` does.
    """
    path = root / VAL_TAR
    with _open_archive(path) as file:
        time, end = _time_and_size(file)
        members = _official_members(walk_tar(file, 0, end), _VAL_IMAGE, path, notes)
        folder = _folder(VAL_TAR, members, time, path)
    if not folder.names:
        raise IngestError(f"{path}: contains no images; {_fetch_hint(VAL_TAR)}")
    return SplitScan("val", True, (folder,), f"flat in {VAL_TAR}", notes)


def check_archives(paths: list[Path], on_progress: Callable[[int], None]) -> None:
    """Compare each archive's MD5 with the official value; `on_progress` gets the number of bytes read.

    Raises IngestError for an archive that differs or cannot be read.
    """
    for path in paths:
        digest = hashlib.md5(usedforsecurity=False)
        with _open_archive(path) as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
                on_progress(len(chunk))
        expected = OFFICIAL_MD5.get(path.name)
        if digest.hexdigest() != expected:
            raise IngestError(
                f"{path}: its MD5 is {digest.hexdigest()}, the official one is {expected or 'not known'}; "
                f"download it again, or leave --check-archives out if it should differ"
            )


def _class_tar(file: FileIO, origin: Path, path: str, bounds: tuple[int, int], time: int, notes: ScanNotes) -> Folder:
    wnid = path[-len("n00000000.tar") : -len(".tar")]
    # The outer tar states where an inner one ends, so the zeros at its end are not needed as proof.
    members = walk_tar(file, *bounds, needs_end_mark=False)
    return _folder(path, _official_members(members, re.compile(rf"{wnid}_[0-9]+\.JPEG"), origin, notes), time, origin)


def _folder(path: str, members: Iterator[Member], time: int, origin: Path) -> Folder:
    names: list[str] = []
    sizes, offsets = array("q"), array("q")
    for member in members:
        names.append(member.name)
        sizes.append(member.size)
        offsets.append(member.offset)
        _refuse_flood(len(names), origin)
    return Folder(path, tuple(names), sizes, offsets, array("q", [time]) * len(names))


def _official_members(
    members: Iterator[Member], names: re.Pattern[str], origin: Path, notes: ScanNotes
) -> Iterator[Member]:
    """Yield the members with an official name; ignore harmless others, refuse the rest."""
    archive = next(name for name in (*origin.parts, origin.name) if name.endswith(".tar"))
    try:
        for member in members:
            if member.kind == "file" and names.fullmatch(member.name):
                notes.found += names is not CLASS_TAR
                yield member
            elif member.kind == "folder" or member.name.rpartition("/")[2].startswith("."):
                notes.found += 1
                notes.ignored.add(f"{archive}/{member.name}")
            else:
                what = "" if member.kind == "file" else f" ({member.kind})"
                raise IngestError(
                    f"{origin}: contains {printable(member.name)[:200]!r}{what}, expected files named "
                    f"{_example(names)}; {_fetch_hint(archive)}"
                )
    except BadTar as error:
        raise IngestError(f"{origin}: damaged or truncated ({error}); {_fetch_hint(archive)}") from None


class _HeaderReader(FileIO):
    """A tar of which only the headers are read, while the kernel reads everything ahead in order.

    Disks and networks deliver a tar of small images faster as a stream than seek by seek.
    """

    _asked = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte, and let the kernel read ahead from there; return the byte's number."""
        if offset + _READ_AHEAD_BYTES // 2 > self._asked:
            begin = max(offset, self._asked)
            os.posix_fadvise(self.fileno(), begin, _READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            self._asked = begin + _READ_AHEAD_BYTES
        return super().seek(offset, whence)


def _open_archive(path: Path) -> FileIO:
    try:
        descriptor = open_source(path, follow_links=True)  # the caller has checked where a link leads
    except OSError as error:
        raise IngestError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if descriptor is None:
        raise IngestError(f"{path}: {kind_of_file(path)}, expected a plain file; put the official tar there")
    return _HeaderReader(descriptor)


def _time_and_size(file: FileIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_mtime_ns, status.st_size


def _refuse_flood(images: int, origin: Path) -> None:
    if images > _MOST_IMAGES:
        raise IngestError(
            f"{origin}: contains more than {_MOST_IMAGES:,} images, so it is not ImageNet; "
            f"put the official archives into DATA"
        )


def _example(names: re.Pattern[str]) -> str:
    return names.pattern.replace("[0-9]{8}", "<8 digits>").replace("[0-9]+", "<number>").replace("\\", "")


def _fetch_hint(archive: str) -> str:
    return f"download {archive} again"
