"""The members of tar archives as inputs, read in place by offset: nothing is unpacked."""

import errno
import hashlib
import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from convnext_imagenet.base.tars import BadTar, Member, walk_tar
from convnext_imagenet.base.uris import one_line
from convnext_imagenet.base.wording import plural
from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage, too_large
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import source_text
from convnext_imagenet.serve.inputs.inputs import Item, Names, lies_in
from convnext_imagenet.serve.inputs.labels import NO_CLASSES, ClassLookup
from convnext_imagenet.serve.inputs.layout import ALL_FILES, SIDECAR_ENDINGS, Patterns
from convnext_imagenet.serve.inputs.storage import StoredFile, failed_store

log = logging.getLogger(__name__)
TAR_ENDINGS = (".tar",)
# Members that the archive holds no bytes for; each becomes a row with an error. Their order decides `_size_code`.
_WITHOUT_BYTES = ("a hard link", "a symbolic link", "a sparse file")


@dataclass(frozen=True)
class TarInputs:
    """The members of archives, in their order: offset and size of each; a size below 0 is a `_size_code`."""

    archives: tuple[StoredFile, ...]
    archive_numbers: array
    names: Names
    offsets: array
    sizes: array
    sha256: str
    folder: Path | None = None  # the folder that holds only these archives, if any
    classes: ClassLookup = NO_CLASSES

    @property
    def count(self) -> int:
        """Return the number of members."""
        return len(self.names)

    def items(self, numbers: range) -> Iterator[Item]:
        """Yield the members with these numbers."""
        for number in numbers:
            archive = self.archives[self.archive_numbers[number]]
            source = f"{source_text(archive.name)}/{source_text(self.names[number])}"
            load = partial(_load, archive, self.offsets[number], self.sizes[number])
            yield Item(source, load, self.classes.of_folder(self.names[number]))

    def is_inside(self, path: Path) -> bool:
        """Return whether `path` lies in the folder that holds only these archives."""
        return lies_in(path, self.folder)


def list_tars(
    archives: Sequence[StoredFile],
    folder: Path | None = None,
    patterns: Patterns = ALL_FILES,
    classes: ClassLookup = NO_CLASSES,
) -> TarInputs:
    """Return the files and links in uncompressed archives; `folder` holds only these archives, if given.

    Without --include, captions, data and classes beside the images (SIDECAR_ENDINGS) are left out. Raises ServeError
    for an archive that is damaged or compressed, and when they hold no files.
    """
    numbers, names, offsets, sizes = array("i"), Names(), array("q"), array("q")
    digest, left_out = hashlib.sha256(), 0
    for number, archive in enumerate(archives):
        digest.update(archive.name.encode() + b"\0")
        for member in _members(archive):
            name = os.fsencode(member.name)
            is_sidecar = not patterns.include and member.name.lower().endswith(SIDECAR_ENDINGS)
            if is_sidecar or not patterns.chooses(name):
                left_out += 1
                continue
            numbers.append(number)
            names.append(name)
            offsets.append(member.offset)
            sizes.append(member.size if member.kind == "file" else _size_code(member.kind))
            digest.update(b"%d %d %d %d " % (number, len(name), member.offset, sizes[-1]) + name)
    if left_out:
        why = "left out: no images by their endings, or not chosen"
        log.info("%s: %s %s", folder or archives[0], plural(left_out, "member"), why)
    if not len(names):
        choice = f" that {patterns} chooses" if patterns else ""
        raise ServeError(f"{', '.join(map(str, archives))}: no files to predict{choice}; give another tar")
    return TarInputs(tuple(archives), numbers, names, offsets, sizes, digest.hexdigest(), folder, classes)


def _members(archive: StoredFile) -> Iterator[Member]:
    try:
        with archive.stream() as file:
            yield from (
                member for member in walk_tar(file, 0, archive.size) if member.kind in ("file", *_WITHOUT_BYTES)
            )
    except (BadTar, OSError, pa.ArrowException) as error:
        raise failed_store(archive, error) or ServeError(
            f"{archive}: cannot be read as an uncompressed tar ({one_line(error)}); copy it again, or unpack a "
            f"compressed one first"
        ) from None


def _size_code(kind: str) -> int:
    """Return the negative number that stands for the size of a member without bytes; it encodes the kind."""
    return -1 - _WITHOUT_BYTES.index(kind)


def _load(archive: StoredFile, offset: int, size: int) -> bytes:
    if size < 0:
        raise BadImage("unsupported", f"{_WITHOUT_BYTES[-1 - size]}, whose bytes are not in its place of the archive")
    if size > LARGEST_FILE_BYTES:
        raise too_large(size)
    data = archive.read_at(offset, size)
    if len(data) < size:
        raise OSError(errno.EIO, f"the archive ends {size - len(data)} bytes before this member does")
    return data
