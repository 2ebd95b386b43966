"""Reads the bytes of one planned image from a file, a tar, a table or a zip, and trusts nothing that it opens.

Opening never blocks on a pipe, never follows a link unasked, and never writes. An image that is not a plain file is
bad, which costs only that image; a file that has changed since the plan stops the ingest. Decodes nothing.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Self

from convnext_imagenet.base.zips import BadZip, read_member
from convnext_imagenet.ingest.errors import FailedIngestError
from convnext_imagenet.ingest.shards.plan import PlannedRow
from convnext_imagenet.ingest.source.safe_open import kind_of_file, open_source
from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage, too_large

_MOST_OPEN_ARCHIVES = 64  # train may be 1000 class tars, and a process often has only 1024 descriptors
_RESUME = "fix this and run the same command again to resume; finished shards are kept"


class SourceReader:
    """Reads images below DATA and keeps its archives open. Use it in one process, as a context."""

    def __init__(self, data: Path, follow_links: bool = False) -> None:
        self._data = data
        self._follow_links = follow_links
        self._archives: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._archives.values():
            os.close(descriptor)
        self._archives.clear()

    def read(self, row: PlannedRow) -> bytes:
        """Return the bytes of the image.

        Raises BadImage when it is not a plain file or is too large, FailedIngestError when the source cannot be read
        or has changed since the plan was made.
        """
        try:
            return self._read_member(row) if row.is_member else self._read_file(row)
        except OSError as error:
            raise FailedIngestError(f"{self._data / row.path}: cannot be read ({error.strerror}); {_RESUME}") from None

    def _read_member(self, row: PlannedRow) -> bytes:
        descriptor = self._archive(row)
        if row.size > LARGEST_FILE_BYTES:
            raise too_large(row.size)
        image, damage = _member(descriptor, row)
        if (len(image) != row.size and not damage) or _modified_since(row, os.fstat(descriptor)):
            raise _changed(self._data / row.archive, "its modification time or size differs from the plan")
        if damage:
            raise BadImage("damaged", damage)
        return image

    def _archive(self, row: PlannedRow) -> int:
        name = row.archive
        if name not in self._archives:
            if len(self._archives) >= _MOST_OPEN_ARCHIVES:
                os.close(self._archives.popitem(last=False)[1])
            descriptor = open_source(self._data / name, follow_links=True)  # the scan has checked where it leads
            if descriptor is None:
                raise _changed(self._data / name, "it is no longer a plain file")
            self._archives[name] = descriptor
        self._archives.move_to_end(name)
        return self._archives[name]

    def _read_file(self, row: PlannedRow) -> bytes:
        path = self._data / row.path
        descriptor = open_source(path, self._follow_links)
        if descriptor is None:
            raise BadImage("not_a_file", kind_of_file(path))
        try:
            status = os.fstat(descriptor)
            size = status.st_size
            # One byte more than expected shows whether the file grows; a second look at its time, whether it changed.
            image = b"" if size > LARGEST_FILE_BYTES else _read_fully(descriptor, size + 1, 0)
            status_after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if size != row.size or (image and len(image) != size):
            raise _changed(path, f"{row.size} bytes planned, {max(size, len(image))} found")
        if _modified_since(row, status) or _modified_since(row, status_after):
            raise _changed(path, "same size, but another modification time")
        if size > LARGEST_FILE_BYTES:
            raise too_large(size)
        return image


def _member(descriptor: int, row: PlannedRow) -> tuple[bytes, str]:
    """Return the bytes of an image in an archive, or in words what is damaged in the zip there."""
    if not row.archive.lower().endswith(".zip"):
        return _read_fully(descriptor, row.size, row.offset), ""
    try:
        return read_member(descriptor, row.offset, row.size), ""
    except BadZip as error:
        return b"", f"in the zip: {error}"


def _read_fully(descriptor: int, size: int, offset: int) -> bytes:
    """Return `size` bytes, fewer only at the end of the file; one call of `pread` may return fewer anywhere."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data


def _modified_since(row: PlannedRow, status: os.stat_result) -> bool:
    return row.modified_ns not in (-1, status.st_mtime_ns)


def _changed(path: Path, how: str) -> FailedIngestError:
    return FailedIngestError(
        f"{path}: changed during the ingest ({how}); stop whatever writes there, and build into another directory"
    )
