"""Files as inputs: all under a folder, or those that a list names; on this machine or in any store of `pyarrow.fs`.

Every regular file that is not hidden is an input, whatever its name ends in. On this machine symbolic links are
followed; a link that leads nowhere is an input too, and becomes a row that says so.
"""

import codecs
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.records.images import LARGEST_FILE_BYTES, BadImage
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Item, Names
from convnext_imagenet.serve.inputs.storage import StoredFile

_LARGEST_LINE = 4096


@dataclass(frozen=True)
class Files:
    """Files by name, under `root` on this machine or in `store`."""

    root: str
    names: Names
    sha256: str
    store: pa_fs.FileSystem | None = None
    is_listed: bool = False  # by a text file, so that nothing can be added to them

    @property
    def count(self) -> int:
        """How many files there are."""
        return len(self.names)

    def items(self, numbers: range) -> Iterator[Item]:
        """The files with these numbers."""
        for number in numbers:
            name = self.names[number]
            yield Item(source_text(name), partial(read_named, self.root, name, self.store))

    def is_inside(self, path: Path) -> bool:
        """Whether `path` lies under the folder."""
        is_folder = self.store is None and not self.is_listed
        return is_folder and path.resolve().is_relative_to(Path(self.root).resolve())


def list_folder(root: Path) -> Files:
    """Every file under a folder of this machine, in the order of the bytes of their paths; ServeError for none."""
    names, digest = Names(), hashlib.sha256()
    for name, size in _walk(os.fsencode(root)):
        names.append(name)
        _note(digest, name, size)
    return _some(Files(str(root), names, digest.hexdigest()), str(root))


def list_store(folder: StoredFile, found: Iterable[pa_fs.FileInfo]) -> Files:
    """The visible ones of the files that were found under a folder of a store; ServeError for none."""
    files = ((PurePosixPath(info.path).relative_to(folder.path).as_posix().encode(), info.size) for info in found)
    names, digest = Names(), hashlib.sha256()
    for name, size in sorted(file for file in files if not is_hidden(file[0])):
        names.append(name)
        _note(digest, name, size)
    return _some(Files(folder.path, names, digest.hexdigest(), folder.store), str(folder))


def read_list(path: StoredFile) -> Files:
    """The files that a text file names, one a line, relative to its own folder; empty lines are left out.

    Raises ServeError when it names none, or holds what is no text of paths.
    """
    try:
        return _listed(path)
    except (OSError, pa.ArrowException) as error:
        raise ServeError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None


def _listed(path: StoredFile) -> Files:
    names, digest = Names(), hashlib.sha256()
    store = None if path.is_local else path.store
    with path.stream() as lines:
        for number, line in enumerate(iter(partial(lines.readline, _LARGEST_LINE + 1), b""), 1):
            name = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").rstrip(b"\r\n")
            if len(line) > _LARGEST_LINE or b"\0" in name:
                raise ServeError(f"{path}: line {number} is no path; expected one path a line")
            if name:
                names.append(name)
                _note(digest, name, _size(path.folder, name) if store is None else -1)
    return _some(Files(path.folder, names, digest.hexdigest(), store, is_listed=True), str(path))


def read_beside(file: StoredFile, name: bytes) -> bytes:
    """The bytes of the file that `name` says, seen from the folder of `file`; raises OSError or BadImage."""
    return read_named(file.folder, name, None if file.is_local else file.store)


def read_named(folder: str, name: bytes, store: pa_fs.FileSystem | None) -> bytes:
    """The bytes of a file under a folder of a store, or of this machine; raises OSError or BadImage."""
    if store is None:
        return read_file(Path(folder) / os.fsdecode(name))
    path = name.decode("utf-8", "replace")
    try:
        with store.open_input_stream(f"{folder}/{path}" if folder else path) as stream:
            return _at_most(stream.read(LARGEST_FILE_BYTES + 1))
    except pa.ArrowException as error:  # such as a path that the store does not understand
        raise OSError(errno.EINVAL, " ".join(str(error).split())) from None


def read_file(path: Path) -> bytes:
    """The bytes of a regular file; BadImage for one that is too large, or is none: a pipe would wait for ever."""
    if "\0" in str(path):
        raise OSError(errno.ENOENT, "no path: it holds a zero byte")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("unsupported", "not a regular file")
        return _at_most(file.read(LARGEST_FILE_BYTES + 1), status.st_size)


def source_text(path: Path | str | bytes) -> str:
    r"""A path as text that every tool can print; bytes that are not UTF-8 are written as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _at_most(data: bytes, size: int | None = None) -> bytes:
    if len(data) > LARGEST_FILE_BYTES:
        found = f"{size} bytes" if size else f"more than {LARGEST_FILE_BYTES} bytes"
        raise BadImage("too_large", f"{found}, at most {LARGEST_FILE_BYTES} are read")
    return data


def _walk(root: bytes) -> Iterator[tuple[bytes, int]]:
    """Relative paths and sizes in the order of the paths' bytes; in memory are a folder and those above it."""
    above = [(b"", *_opened(root + b"/"))]
    while above:
        inside, _, entries = above[-1]
        name, size = next(entries, (None, None))
        if name is None:
            above.pop()
        elif size is not None:
            yield inside + name, size
        else:
            identity, below = _opened(folder := root + b"/" + inside + name)
            if any(identity == known for _, known, _ in above):
                raise ServeError(
                    f"{_said(folder)}: a link to a folder above it; remove it, or name a smaller directory"
                )
            above.append((inside + name, identity, below))


def _opened(folder: bytes) -> tuple[tuple[int, int], Iterator[tuple[bytes, int | None]]]:
    """Which folder it is, by device and inode, and its entries."""
    try:
        status, entries = Path(os.fsdecode(folder)).stat(), _entries(folder)
    except OSError as error:
        raise ServeError(f"{_said(folder)}: cannot be listed ({error.strerror}); grant the right to read it") from None
    return (status.st_dev, status.st_ino), iter(entries)


def _said(folder: bytes) -> str:
    return source_text(folder.rstrip(b"/"))


def _entries(folder: bytes) -> list[tuple[bytes, int | None]]:
    """The visible files of a folder with their sizes, and its folders (a slash behind the name, no size), sorted."""
    found: list[tuple[bytes, int | None]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            try:
                mode, size = (status := entry.stat()).st_mode, status.st_size
            except OSError:
                mode, size = stat.S_IFREG, -1  # a dead link: an input that becomes a row with read_error
            if stat.S_ISDIR(mode):
                found.append((entry.name + b"/", None))
            elif stat.S_ISREG(mode):
                found.append((entry.name, size))
    return sorted(found)


def is_hidden(name: bytes) -> bool:
    """Whether a file or a folder above it begins with a dot."""
    return any(part.startswith(b".") for part in name.split(b"/"))


def _size(folder: str, name: bytes) -> int:
    """The bytes of a file, or -1 where there is none: its row will say so."""
    try:
        return os.stat(os.path.join(os.fsencode(folder), name)).st_size  # noqa: PTH116, PTH118  # names may be no UTF-8
    except OSError:
        return -1


def _note(digest: "hashlib._Hash", name: bytes, size: int) -> None:
    digest.update(b"%d %d " % (len(name), size) + name)


def _some(files: Files, said: str) -> Files:
    if not files.count:
        raise ServeError(f"{said}: holds no files (hidden ones are left out); nothing to predict")
    return files
