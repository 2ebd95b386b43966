"""Opens, reads and lists files on this machine or in any store of `pyarrow.fs`. Knows nothing of their contents."""

import errno
import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.base.errors import FailedError
from convnext_imagenet.base.stores import is_final
from convnext_imagenet.base.uris import one_line, open_store, public_place
from convnext_imagenet.serve.errors import ServeError

_OF_A_REQUEST = re.compile(r"AWS Error|Azure Error|google::cloud|curl")  # in what Arrow says of a failed request
_BUFFER_BYTES = 1 << 20  # of one request to a store: a request costs tens of milliseconds, whatever its size


@dataclass(frozen=True)
class StoredFile:
    """A file, or a folder of files, at `path` of `store`; messages show `display`.

    `below` is its path below the folder that was given, if it was found in one.
    """

    path: str
    store: pa_fs.FileSystem
    display: str
    below: str = ""

    def __str__(self) -> str:
        return self.display

    def __truediv__(self, name: str) -> "StoredFile":
        """Return the file `name` below this folder."""
        return StoredFile(f"{self.path}/{name}", self.store, f"{self.display.rstrip('/')}/{name}", name)

    @property
    def name(self) -> str:
        """Return the name without the folders above what was given."""
        return self.below or PurePosixPath(self.path).name

    @property
    def ending(self) -> str:
        """Return the ending of the name in lower case, with the dot."""
        return ending(self.name)

    @property
    def folder(self) -> str:
        """Return the path of the folder that holds it."""
        return str(PurePosixPath(self.path).parent)

    @property
    def is_local(self) -> bool:
        """Return whether it is on this machine."""
        return isinstance(self.store, pa_fs.LocalFileSystem)

    @property
    def size(self) -> int:
        """Return its size in bytes. Raises OSError for a file that has vanished."""
        with self.open() as file:
            return file.size()

    def open(self) -> pa.NativeFile:
        """Return the file, open for reading from any offset. Raises OSError."""
        return self.store.open_input_file(self.path)

    def stream(self) -> BinaryIO:
        """Return the file, open for reading from beginning to end in few requests. Raises OSError."""
        return io.BufferedReader(self.open(), _BUFFER_BYTES)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer at the end of the file. Raises OSError."""
        try:
            with self.open() as file:
                file.seek(offset)
                return file.read(size)
        except pa.ArrowException as error:
            raise OSError(errno.EIO, one_line(error)) from None


def local_file(path: Path) -> StoredFile:
    """Return a file of this machine. Raises ServeError for a path that is not UTF-8, which `pyarrow.fs` cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ServeError(f"{str(path)!a}: the path is not UTF-8 text; rename the file, or link to it") from None
    return StoredFile(str(path), pa_fs.LocalFileSystem(), str(path))


def parse_uri(uri: str) -> StoredFile:
    """Return the file or folder of a URI such as s3://bucket/folder. Raises what `open_store` raises."""
    store, path = open_store(uri)
    return StoredFile(path.rstrip("/"), store, public_place(uri))


def list_files(root: StoredFile) -> list[pa_fs.FileInfo]:
    """Return `root` if it is a file, else all files under it.

    Raises ServeError when it cannot be listed, FailedError when its store fails.
    """
    try:
        info = root.store.get_file_info(root.path)
        if info.type == pa_fs.FileType.File:
            return [info]
        entries = root.store.get_file_info(pa_fs.FileSelector(root.path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise failed_store(root, error) or ServeError(
            f"{root}: cannot be listed ({one_line(error)}); check the address and your access to it"
        ) from None
    return [entry for entry in entries if entry.type == pa_fs.FileType.File]


def failed_store(file: StoredFile, error: Exception) -> FailedError | None:
    """Return the error to raise when the store of a file failed; None if the file itself or its address is at fault."""
    if file.is_local or is_final(error) or not _OF_A_REQUEST.search(str(error)):
        return None
    return FailedError(
        f"{file}: the store fails ({one_line(error)}); check it and your access to it, then run the same command again"
    )


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, with the dot."""
    return PurePosixPath(name).suffix.lower()
