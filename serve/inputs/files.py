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

from convnext_imagenet.records.images import LARGEST_FILE_BYTES, BadImage, too_large
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Item, Names
from convnext_imagenet.serve.inputs.storage import StoredFile, one_line

LIST_ENDINGS = (".txt", ".lst")
_LONGEST_LINE_BYTES = 4096


@dataclass(frozen=True)
class FileInputs:
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


def list_folder(root: Path) -> FileInputs:
    """Return every file under a folder of this machine, in the order of the bytes of their paths.

    Raises ServeError when there is none, or a folder cannot be read.
    """
    names, sha256 = _names_and_sha256(_walk(os.fsencode(root)))
    return _require_any(FileInputs(str(root), names, sha256), str(root))


def list_store(folder: StoredFile, files: Iterable[pa_fs.FileInfo]) -> FileInputs:
    """Return the visible ones of `files`, all of which lie under a folder of a store; ServeError for none."""
    named = ((PurePosixPath(info.path).relative_to(folder.path).as_posix().encode(), info.size) for info in files)
    names, sha256 = _names_and_sha256(sorted(file for file in named if not is_hidden(file[0])))
    return _require_any(FileInputs(folder.path, names, sha256, folder.store), str(folder))


def read_list(path: StoredFile) -> FileInputs:
    """Return the files that a text file names, one a line, relative to its own folder; empty lines are left out.

    Raises ServeError when it names none, or holds what is no text of paths.
    """
    store = None if path.is_local else path.store
    try:
        listed = ((name, _size(path.folder, name) if store is None else -1) for name in _lines(path))
        names, sha256 = _names_and_sha256(listed)
    except (OSError, pa.ArrowException) as error:
        raise ServeError(f"{path}: cannot be read ({one_line(error)})") from None
    return _require_any(FileInputs(path.folder, names, sha256, store, is_listed=True), str(path))


def read_beside(file: StoredFile, name: bytes) -> bytes:
    """Return the bytes of the file `name`, relative to the folder of `file`; raises OSError or BadImage."""
    return read_named(file.folder, name, None if file.is_local else file.store)


def read_named(folder: str, name: bytes, store: pa_fs.FileSystem | None) -> bytes:
    """Return the bytes of a file under a folder of a store, or of this machine; raises OSError or BadImage."""
    if store is None:
        return read_file(Path(folder) / os.fsdecode(name))
    path = name.decode("utf-8", "replace")
    try:
        with store.open_input_stream(f"{folder}/{path}" if folder else path) as stream:
            data = stream.read(LARGEST_FILE_BYTES + 1)
    except pa.ArrowException as error:  # such as a path that the store does not understand
        raise OSError(errno.EINVAL, one_line(error)) from None
    if len(data) > LARGEST_FILE_BYTES:
        raise too_large(f"more than {LARGEST_FILE_BYTES}")
    return data


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file; OSError, or BadImage for one that is too large or no regular file."""
    if "\0" in str(path):
        raise OSError(errno.ENOENT, "no path: it holds a zero byte")
    # a pipe opened without O_NONBLOCK would wait for ever
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("unsupported", "not a regular file")
        data = file.read(LARGEST_FILE_BYTES + 1)
    if len(data) > LARGEST_FILE_BYTES:
        raise too_large(status.st_size or f"more than {LARGEST_FILE_BYTES}")
    return data


def source_text(path: Path | str | bytes) -> str:
    r"""Return a path as text that every tool can print; bytes that are not UTF-8 are written as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_hidden(name: bytes) -> bool:
    """Return whether a file or a folder above it begins with a dot."""
    return any(component.startswith(b".") for component in name.split(b"/"))


def _names_and_sha256(files: Iterable[tuple[bytes, int]]) -> tuple[Names, str]:
    """Return the names, and the fingerprint of names and sizes in this order."""
    names, digest = Names(), hashlib.sha256()
    for name, size in files:
        names.append(name)
        digest.update(b"%d %d " % (len(name), size) + name)
    return names, digest.hexdigest()


def _require_any(files: FileInputs, display: str) -> FileInputs:
    if not files.count:
        raise ServeError(f"{display}: holds no files (hidden ones are left out); nothing to predict")
    return files


def _lines(path: StoredFile) -> Iterator[bytes]:
    """Yield the lines of a text file that are not empty; ServeError for one that is no path."""
    with path.stream() as file:
        for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE_BYTES + 1), b""), 1):
            name = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").rstrip(b"\r\n")
            if len(line) > _LONGEST_LINE_BYTES or b"\0" in name:
                raise ServeError(f"{path}: line {number} is no path; expected one path a line")
            if name:
                yield name


def _size(folder: str, name: bytes) -> int:
    """Return the bytes of a file, or -1 where there is none: its row will say so."""
    try:
        return os.stat(os.path.join(os.fsencode(folder), name)).st_size  # noqa: PTH116, PTH118  # names may be no UTF-8
    except OSError:
        return -1


def _walk(root: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield relative paths and sizes in the order of the paths' bytes; in memory are a folder and those above it."""
    above = [(b"", *_open_folder(root + b"/"))]
    while above:
        inside, _, entries = above[-1]
        name, size = next(entries, (None, None))
        if name is None:
            above.pop()
        elif size is not None:
            yield inside + name, size
        else:
            identity, below = _open_folder(folder := root + b"/" + inside + name)
            if any(identity == known for _, known, _ in above):
                raise ServeError(
                    f"{_display(folder)}: a link to a folder above it; remove it, or name a smaller directory"
                )
            above.append((inside + name, identity, below))


def _open_folder(folder: bytes) -> tuple[tuple[int, int], Iterator[tuple[bytes, int | None]]]:
    """Return which folder it is, by device and inode, and its entries; ServeError when it cannot be listed."""
    try:
        status, entries = Path(os.fsdecode(folder)).stat(), _visible_entries(folder)
    except OSError as error:
        raise ServeError(
            f"{_display(folder)}: cannot be listed ({error.strerror}); grant the right to read it"
        ) from None
    return (status.st_dev, status.st_ino), iter(entries)


def _visible_entries(folder: bytes) -> list[tuple[bytes, int | None]]:
    """Return the files of a folder with their sizes, and its folders (a slash behind the name, no size), sorted."""
    visible: list[tuple[bytes, int | None]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            try:
                mode, size = (status := entry.stat()).st_mode, status.st_size
            except OSError:
                mode, size = stat.S_IFREG, -1  # a dead link: an input that becomes a row with read_error
            if stat.S_ISDIR(mode):
                visible.append((entry.name + b"/", None))
            elif stat.S_ISREG(mode):
                visible.append((entry.name, size))
    return sorted(visible)


def _display(folder: bytes) -> str:
    return source_text(folder.rstrip(b"/"))
