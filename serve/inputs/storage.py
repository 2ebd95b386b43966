"""A file or folder on this machine or in any store of `pyarrow.fs`: opened, read from an offset, listed."""

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
    """A file, or a folder of files, at `path` of `store`; `display` is what messages call it."""

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
    def ending(self) -> str:
        """The lower-case ending of its name, with the dot."""
        return ending(self.name)

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
        """Return the file, open for reading from any offset; raises OSError."""
        return self.store.open_input_file(self.path)

    def stream(self) -> BinaryIO:
        """Return the file, open for reading from begin to end in few requests; raises OSError."""
        return io.BufferedReader(self.open(), _BUFFER_BYTES)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer at the end; raises OSError."""
        try:
            with self.open() as file:
                file.seek(offset)
                return file.read(size)
        except pa.ArrowException as error:
            raise OSError(errno.EIO, one_line(error)) from None


def local_file(path: Path) -> StoredFile:
    """Return a file of this machine; ServeError for a path that is no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ServeError(f"{str(path)!a}: the path is no UTF-8 text; rename it, or link to it") from None
    return StoredFile(str(path), pa_fs.LocalFileSystem(), str(path))


def parse_uri(uri: str) -> StoredFile:
    """Return what a URI such as s3://bucket/folder names, a file or a folder; ServeError for no such store."""
    try:
        store, path = pa_fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, NotImplementedError) as error:
        raise _cannot_be_listed(uri, error) from None
    return StoredFile(path.rstrip("/"), store, uri)


def list_files(root: StoredFile) -> list[pa_fs.FileInfo]:
    """Return `root` when it is a file, or all files under the folder `root`; ServeError when it cannot be listed."""
    try:
        info = root.store.get_file_info(root.path)
        if info.type == pa_fs.FileType.File:
            return [info]
        entries = root.store.get_file_info(pa_fs.FileSelector(root.path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise _cannot_be_listed(root.display, error) from None
    return [entry for entry in entries if entry.type == pa_fs.FileType.File]


def ending(name: str) -> str:
    """Return the lower-case ending of a file's name, with its dot."""
    return PurePosixPath(name).suffix.lower()


def one_line(error: Exception) -> str:
    """Return the text of an error of a library in one line."""
    return " ".join(str(error).split())


def _cannot_be_listed(display: str, error: Exception) -> ServeError:
    return ServeError(f"{display}: cannot be listed ({one_line(error)})")
