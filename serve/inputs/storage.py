"""A file on this machine or in any store of `pyarrow.fs`: opened, read at a place, and what lies beside it."""

import errno
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.serve.errors import ServeError

_BUFFER_BYTES = 1 << 20  # what one request to a store fetches


@dataclass(frozen=True)
class StoredFile:
    """A file at `path` of `store`; its text is what messages call it."""

    path: str
    store: pa_fs.FileSystem
    display: str

    def __str__(self) -> str:
        return self.display

    def __truediv__(self, name: str) -> "StoredFile":
        return StoredFile(f"{self.path}/{name}", self.store, f"{self.display.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.path).name

    @property
    def folder(self) -> str:
        """The path of the folder that it lies in."""
        return str(PurePosixPath(self.path).parent)

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        return isinstance(self.store, pa_fs.LocalFileSystem)

    @property
    def size(self) -> int:
        """Its bytes; raises OSError for a file that has vanished."""
        with self.open() as file:
            return file.size()

    def open(self) -> pa.NativeFile:
        """The file for reading at any place; raises OSError."""
        return self.store.open_input_file(self.path)

    def stream(self) -> BinaryIO:
        """The file as bytes one after the other, in few requests."""
        return io.BufferedReader(self.open(), _BUFFER_BYTES)

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, fewer at the end."""
        try:
            with self.open() as file:
                file.seek(offset)
                return file.read(size)
        except pa.ArrowException as error:
            raise OSError(errno.EIO, " ".join(str(error).split())) from None


def here(path: Path) -> StoredFile:
    """A file of this machine; ServeError for a path that is no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ServeError(f"{str(path)!a}: the path is no UTF-8 text; rename it, or link to it") from None
    return StoredFile(str(path), pa_fs.LocalFileSystem(), str(path))


def locate(uri: str) -> StoredFile:
    """What a URI such as s3://bucket/folder names, a file or a folder; ServeError when there is no such store."""
    try:
        store, path = pa_fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, NotImplementedError) as error:
        raise _unlisted(uri, error) from None
    return StoredFile(path.rstrip("/"), store, uri)


def files_at(place: StoredFile) -> list[pa_fs.FileInfo]:
    """The file there, or all files under the folder there; ServeError when they cannot be listed."""
    try:
        info = place.store.get_file_info(place.path)
        if info.type == pa_fs.FileType.File:
            return [info]
        found = place.store.get_file_info(pa_fs.FileSelector(place.path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise _unlisted(place.display, error) from None
    return [info for info in found if info.type == pa_fs.FileType.File]


def ending(name: str) -> str:
    """The lower-case ending of a file's name, with its dot."""
    return PurePosixPath(name).suffix.lower()


def _unlisted(said: str, error: Exception) -> ServeError:
    return ServeError(f"{said}: cannot be listed ({' '.join(str(error).split())})")
