"""A folder on this machine or in a store of `pyarrow.fs` (S3, GCS, Azure, HDFS), read and written by whole files.

Messages never show a user, password or query of a URI. Requests that fail for a moment are repeated. Knows nothing of
what the files hold.
"""

import contextlib
import hashlib
import logging
import os
import re
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.base.errors import ArtefactError, FailedError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
ReadAt = Callable[[int, int], bytes]  # from an offset, up to so many bytes; fewer only at the end of the file
_ATTEMPTS, _FIRST_PAUSE_S = 8, 0.1  # 12 s of pauses in total
_COPY_BYTES = 8 << 20
# What a repeated request cannot change: rights, names, addresses.
_FINAL = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE|UNAUTHORIZED|HTTP status 40[0134]", re.I
)


def is_uri(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is a URI such as s3://bucket/folder, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", os.fspath(place)) is not None


@dataclass(frozen=True)
class StoreFolder:
    """A folder at `path` of `store`; `str` is how messages name it, without credentials.

    Every method raises FileNotFoundError for what is not there, ArtefactError without rights, and FailedError when the
    store keeps failing.
    """

    store: pa_fs.FileSystem
    path: str
    display: str

    def __str__(self) -> str:
        return self.display

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""

        def whole() -> bytes:
            with self.store.open_input_stream(self._at(name)) as stream:
                return stream.read()

        return self._retrying(whole, name)

    def reader(self, name: str) -> ReadAt:
        """Return a function that reads a file from any offset, in any number of threads."""

        def read_at(offset: int, size: int) -> bytes:
            with self.store.open_input_file(self._at(name)) as file:
                return file.read_at(size, offset)

        return lambda offset, size: self._retrying(partial(read_at, offset, size), name)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file under the folder, by its name below it; empty without a folder."""
        selector = pa_fs.FileSelector(self.path, recursive=True, allow_not_found=True)
        found = self._retrying(partial(self.store.get_file_info, selector), "")
        files = (info for info in found if info.type == pa_fs.FileType.File)
        return {info.path[len(self.path) :].lstrip("/"): info.size for info in files}

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        info = self._retrying(partial(self.store.get_file_info, self._at(name)), name)
        if info.type != pa_fs.FileType.File:
            raise FileNotFoundError(f"{self}/{name}: no such file")
        return info.size

    def write(self, name: str, data: bytes) -> None:
        """Write a file; in an object store it appears as a whole or not at all."""

        def whole() -> None:
            self._make_parent(name)
            with self.store.open_output_stream(self._at(name)) as stream:
                stream.write(data)

        self._retrying(whole, name)

    def upload(self, source: Path, name: str) -> None:
        """Write a file of this machine."""

        def whole() -> None:
            self._make_parent(name)
            with source.open("rb") as file, self.store.open_output_stream(self._at(name)) as stream:
                while piece := file.read(_COPY_BYTES):
                    stream.write(piece)

        self._retrying(whole, name)

    def download(self, name: str, target: Path) -> str:
        """Write a file to `target` on this machine, and return its SHA-256."""

        def whole() -> str:
            digest = hashlib.sha256()
            with self.store.open_input_stream(self._at(name)) as stream, target.open("wb") as file:
                while piece := stream.read(_COPY_BYTES):
                    digest.update(piece)
                    file.write(piece)
            return digest.hexdigest()

        return self._retrying(whole, name)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, which is read for it."""
        return self.download(name, Path(os.devnull))

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._retrying(partial(self.store.delete_file, self._at(name)), name)

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def _make_parent(self, name: str) -> None:
        if isinstance(self.store, pa_fs.LocalFileSystem | pa_fs.HadoopFileSystem):
            self.store.create_dir(self._at(name).rpartition("/")[0], recursive=True)

    def _retrying(self, act: Callable[[], Result], name: str) -> Result:
        """Return what `act` returns; repeat it while the store fails for a moment."""
        at = f"{self}/{name}".rstrip("/")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return act()
            except FileNotFoundError:
                raise FileNotFoundError(f"{at}: no such file") from None
            except (OSError, pa.ArrowException) as error:
                if isinstance(error, PermissionError) or _FINAL.search(str(error)):
                    reason = _one_line(error)
                    raise ArtefactError(f"{at}: refused ({reason}); check the address and your rights") from None
                if attempt == _ATTEMPTS:
                    raise FailedError(
                        f"{at}: failed {_ATTEMPTS} times ({_one_line(error)}); run the same command again to resume"
                    ) from None
                log.debug("%s: attempt %d failed (%s)", at, attempt, _one_line(error))
                time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
        raise RuntimeError("a store was asked no time")


def open_folder(uri: str) -> StoreFolder:
    """Return the folder of a URI. Raises ArtefactError for an unknown store or an address that cannot be parsed."""
    shown = public_uri(uri)
    try:
        store, path = pa_fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, NotImplementedError, ImportError) as error:
        text = "the address cannot be parsed" if uri in str(error) or "Cannot parse" in str(error) else _one_line(error)
        raise ArtefactError(f"{shown}: cannot be opened ({text}); use a URI such as s3://bucket/folder") from None
    return StoreFolder(store, path.rstrip("/"), shown)


def public_uri(uri: str) -> str:
    """Return a URI without user, password and query, as messages, logs and files may show it."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return f"{uri.partition(':')[0]}://..."
    is_azure = parts.scheme in ("abfs", "abfss")  # there container@account is the address
    host = parts.netloc if is_azure and ":" not in parts.netloc.partition("@")[0] else parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


def local_reader(path: Path) -> ReadAt:
    """Return a function that reads a file of this machine from any offset, in any thread and after a fork.

    The file stays open as long as the function. Raises OSError when it cannot be opened.
    """
    reader = _LocalReader(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    return reader.read_at


class _LocalReader:
    """A descriptor that is closed with its last user; `pread` has no position that two readers could share."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)


def _one_line(error: BaseException) -> str:
    """Return the words of an error without the queries of addresses: Azure's messages show the signature of a URI."""
    return re.sub(r"\?[^\s'\"]+", "", " ".join(str(error).split()))[:300]
