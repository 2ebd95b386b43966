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
from io import FileIO
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.uris import one_line, open_store, public_place

log = logging.getLogger(__name__)

Result = TypeVar("Result")
ReadAt = Callable[[int, int], bytes]  # from an offset, up to so many bytes; fewer only at the end of the file
_RETRY_S, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60.0, 0.1, 8.0
_COPY_BYTES = 8 << 20
# What a repeated request cannot change: rights, names, addresses.
_FINAL = re.compile(
    r"\b(ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|INVALID_SIGNATURE|SIGNATURE_DOES_NOT_MATCH|UNAUTHORIZED"
    r"|PERMISSION_DENIED|UNAUTHENTICATED"  # Google's
    r"|HTTP status 40[0134])\b|Azure Error: \[\w*\] 40[0134]"
)


def is_final(error: BaseException) -> bool:
    """Return whether a store has refused a request for a reason that repeating it cannot change."""
    return isinstance(error, PermissionError) or _FINAL.search(str(error)) is not None


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

    @property
    def is_local(self) -> bool:
        """Return whether it is on this machine."""
        return isinstance(self.store, pa_fs.LocalFileSystem)

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

        self._retrying(partial(self._into_a_bucket, whole), name)

    def upload(self, source: Path, name: str) -> None:
        """Write a file of this machine."""

        with source.open("rb") as file:

            def whole() -> None:
                self._make_parent(name)
                file.seek(0)
                with self.store.open_output_stream(self._at(name)) as stream:
                    while piece := file.read(_COPY_BYTES):
                        stream.write(piece)

            self._retrying(partial(self._into_a_bucket, whole), name)

    def download(self, name: str, target: Path, check: Callable[[], None] = lambda: None) -> str:
        """Write a file to `target` on this machine, and return its SHA-256; `check` may end it before each piece."""

        def whole() -> str:
            digest = hashlib.sha256()
            check()
            with self.store.open_input_stream(self._at(name)) as stream, FileIO(target, "wb") as file:
                while piece := stream.read(_COPY_BYTES):
                    check()
                    digest.update(piece)
                    _write(file, piece, target)
            return digest.hexdigest()

        return self._retrying(whole, name)

    def sha256(self, name: str, check: Callable[[], None] = lambda: None) -> str:
        """Return the SHA-256 of a file, which is read for it; `check` may end it before each piece."""
        return self.download(name, Path(os.devnull), check)

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        with contextlib.suppress(FileNotFoundError):
            self._retrying(partial(self.store.delete_file, self._at(name)), name)

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def _into_a_bucket(self, write: Callable[[], None]) -> None:
        """Write a file. Raises ArtefactError when the store has no such bucket, which some stores call a file."""
        try:
            write()
        except FileNotFoundError as error:
            raise ArtefactError(f"{self}: cannot be written ({one_line(error)}); create the bucket first") from None

    def _make_parent(self, name: str) -> None:
        if isinstance(self.store, pa_fs.LocalFileSystem | pa_fs.HadoopFileSystem):
            self.store.create_dir(self._at(name).rpartition("/")[0], recursive=True)

    def _retrying(self, act: Callable[[], Result], name: str) -> Result:
        """Return what `act` returns; repeat it while the store fails for a moment."""
        at = f"{self}/{name}".rstrip("/")
        deadline, pause_s = time.monotonic() + _RETRY_S, _FIRST_PAUSE_S
        while True:
            try:
                return act()
            except FileNotFoundError:
                raise FileNotFoundError(f"{at}: no such file") from None
            except (OSError, pa.ArrowException) as error:
                if is_final(error):
                    reason = one_line(error)
                    raise ArtefactError(f"{at}: refused ({reason}); check the address and your rights") from None
                if time.monotonic() + pause_s > deadline:
                    raise FailedError(
                        f"{at}: the store keeps failing ({one_line(error)}); check it and your access to it, then run "
                        f"the same command again to resume"
                    ) from None
                log.debug("%s: failed, to be tried again (%s)", at, one_line(error))
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _write(file: FileIO, piece: bytes, target: Path) -> None:
    """Write to this machine. Raises FailedError, which no repeated request to the store would cure."""
    left = memoryview(piece)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise FailedError(
            f"{target}: cannot be written ({error.strerror}); make room there, then run the same command again to "
            f"resume"
        ) from None


def open_folder(uri: str) -> StoreFolder:
    """Return the folder of a URI. Raises ArtefactError for an unknown store or an address that cannot be parsed."""
    store, path = open_store(uri)
    return StoreFolder(store, path.rstrip("/"), public_place(uri))


def without_credentials(word: str) -> str:
    """Return a word of a command line as logs may show it: a URI, also behind `--option=`, by `public_place`."""
    found = re.match(r"(-[^=]*=)?([A-Za-z][A-Za-z0-9+.-]*):/+(?=[^/])", word)
    if found is None:
        return word
    return f"{found[1] or ''}{public_place(f'{found[2]}://{word[found.end() :]}')}"


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
