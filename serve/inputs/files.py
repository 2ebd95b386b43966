"""Files as inputs: all under a folder, or those that a list names; on this machine or in any store of `pyarrow.fs`.

Every regular file that is not hidden is an input, whatever its ending. On this machine symbolic links are followed; a
broken link is an input too, and its row holds the error. This file knows nothing of images but their largest size.
"""

import codecs
import errno
import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pa_fs

from convnext_imagenet.base.stores import StoreFolder
from convnext_imagenet.base.uris import one_line
from convnext_imagenet.base.wording import plural
from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage, too_large
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Item, Names, PlaceGone
from convnext_imagenet.serve.inputs.labels import NO_CLASSES, ClassLookup
from convnext_imagenet.serve.inputs.layout import ALL_FILES, Patterns
from convnext_imagenet.serve.inputs.storage import StoredFile, failed_store
from convnext_imagenet.serve.inputs.uris import check_named, names_uri, read_uri, source_of

log = logging.getLogger(__name__)

LIST_ENDINGS = (".txt", ".lst")
_LONGEST_LINE_BYTES = 4096  # PATH_MAX of Linux: a longer line is not a path


@dataclass(frozen=True)
class FileInputs:
    """Files by name, under `root` on this machine or in `store`."""

    root: str
    names: Names
    sha256: str
    store: pa_fs.FileSystem | None = None
    is_listed: bool = False  # a text file names them, so a new file in the folder is not an input
    classes: ClassLookup = NO_CLASSES

    @property
    def count(self) -> int:
        """Return the number of files."""
        return len(self.names)

    def items(self, numbers: range) -> Iterator[Item]:
        """Yield the files with these numbers."""
        for number in numbers:
            name = self.names[number]
            load = partial(read_named, self.root, name, self.store)
            yield Item(source_text(source_of(name)), load, self.classes.of_folder(name))

    def holds(self, stored: StoreFolder) -> bool:
        """Return whether a folder of a store lies under this folder of the same store."""
        is_same = self.store is not None and not self.is_listed and self.store.equals(stored.store)
        return is_same and f"{stored.path}/".startswith(f"{self.root}/")

    def is_inside(self, path: Path) -> bool:
        """Return whether `path` lies under the folder, so that a file there would become an input."""
        is_folder = self.store is None and not self.is_listed
        return is_folder and path.resolve().is_relative_to(Path(self.root).resolve())


def list_folder(root: Path, patterns: Patterns = ALL_FILES) -> FileInputs:
    """Return every visible file under a folder of this machine that `patterns` choose, sorted by their paths' bytes.

    Raises ServeError when there is none, or a folder cannot be listed or links to a folder above it.
    """
    names, sha256 = _names_and_sha256(_chosen(_walk(os.fsencode(root)), patterns, str(root)))
    return _require_any(FileInputs(str(root), names, sha256), str(root), patterns)


def list_store(
    folder: StoredFile,
    files: Iterable[pa_fs.FileInfo],
    patterns: Patterns = ALL_FILES,
) -> FileInputs:
    """Return the visible ones among `files`, which all lie under `folder` of a store, that `patterns` choose.

    Raises ServeError for none.
    """
    named = ((PurePosixPath(info.path).relative_to(folder.path).as_posix().encode(), info.size) for info in files)
    visible = sorted(file for file in named if not is_hidden(file[0]))
    names, sha256 = _names_and_sha256(_chosen(visible, patterns, str(folder)))
    return _require_any(FileInputs(folder.path, names, sha256, folder.store), str(folder), patterns)


def read_list(path: StoredFile, patterns: Patterns = ALL_FILES) -> FileInputs:
    """Return the files that a text file names, one per line; empty lines are skipped.

    A path is relative to the folder of the list. Raises ServeError when it names none, cannot be read, or has a line
    that is neither a path nor a URI that can be read.
    """
    store = None if path.is_local else path.store
    try:
        listed = ((name, _size(path.folder, name) if store is None else -1) for name in _lines(path))
        names, sha256 = _names_and_sha256(_chosen(listed, patterns, str(path)))
    except (OSError, pa.ArrowException) as error:
        raise failed_store(path, error) or ServeError(
            f"{path}: cannot be read ({one_line(error)}); check the path and your access to it"
        ) from None
    return _require_any(FileInputs(path.folder, names, sha256, store, is_listed=True), str(path), patterns)


def read_beside(file: StoredFile, name: bytes) -> bytes:
    """Return the bytes of the file `name`, relative to the folder of `file`. Raises OSError or BadImage."""
    return read_named(file.folder, name, None if file.is_local else file.store)


def read_named(folder: str, name: bytes, store: pa_fs.FileSystem | None) -> bytes:
    """Return the bytes of a file under a folder of a store, or of this machine (None); a URI is read where it points.

    Raises OSError or BadImage.
    """
    if names_uri(name):
        return _not_too_large(read_uri(os.fsdecode(name), read_file, LARGEST_FILE_BYTES))
    if store is None:
        return read_file(Path(folder) / os.fsdecode(name))
    path = name.decode("utf-8", "replace")
    try:
        with store.open_input_stream(f"{folder}/{path}" if folder else path) as stream:
            data = stream.read(LARGEST_FILE_BYTES + 1)
    except pa.ArrowException as error:  # for example for a path that the store cannot parse
        raise OSError(errno.EINVAL, one_line(error)) from None
    return _not_too_large(data)


def _not_too_large(data: bytes) -> bytes:
    """Return `data`. Raises BadImage when it is more than may be read."""
    if len(data) > LARGEST_FILE_BYTES:
        raise too_large(f"more than {LARGEST_FILE_BYTES}")
    return data


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file.

    Raises PlaceGone when its whole folder is away, another OSError when it cannot be read, BadImage when it is too
    large or not a regular file.
    """
    if "\0" in str(path):
        raise OSError(errno.ENOENT, "no path: it holds a zero byte")
    try:
        # without O_NONBLOCK, opening a named pipe would wait for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        if _is_away(path.parent):
            raise PlaceGone(error.errno, f"{error.strerror}, and its folder is missing or empty") from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("unsupported", "not a regular file")
        data = file.read(LARGEST_FILE_BYTES + 1)
    if len(data) > LARGEST_FILE_BYTES:
        raise too_large(status.st_size or f"more than {LARGEST_FILE_BYTES}")
    return data


def source_text(path: Path | str | bytes) -> str:
    r"""Return a path as text that every tool can print; a byte that is not UTF-8 is written as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_hidden(name: bytes) -> bool:
    """Return whether the name of a file, or of a folder above it, begins with a dot."""
    return any(component.startswith(b".") for component in name.split(b"/"))


def _is_away(folder: Path) -> bool:
    """Return whether a folder is missing or empty, as a mount point is without its disk."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def _names_and_sha256(files: Iterable[tuple[bytes, int]]) -> tuple[Names, str]:
    """Return the names, and the SHA-256 of names and sizes in this order."""
    names, digest = Names(), hashlib.sha256()
    for name, size in files:
        names.append(name)
        shown = source_of(name)  # secrets may change between two runs of one job
        digest.update(b"%d %d " % (len(shown), size) + shown)
    return names, digest.hexdigest()


def _chosen(files: Iterable[tuple[bytes, int]], patterns: Patterns, display: str) -> Iterator[tuple[bytes, int]]:
    """Yield the files that `patterns` choose, and say at the end how many they left out."""
    if not patterns:
        yield from files
        return
    left_out = 0
    for file in files:
        if patterns.chooses(file[0]):
            yield file
        else:
            left_out += 1
    log.info("%s: %s left out by %s", display, plural(left_out, "file"), patterns)


def _require_any(files: FileInputs, display: str, patterns: Patterns) -> FileInputs:
    if not files.count:
        choice = f" that {patterns} chooses" if patterns else ""
        raise ServeError(
            f"{display}: holds no files to predict{choice} (hidden files are skipped); give another folder or list"
        )
    return files


def _lines(path: StoredFile) -> Iterator[bytes]:
    """Yield the lines of a text file that are not empty. Raises ServeError for a line that is not a path."""
    with path.stream() as file:
        for number, line in enumerate(iter(partial(file.readline, _LONGEST_LINE_BYTES + 1), b""), 1):
            name = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").rstrip(b"\r\n")
            if len(line) > _LONGEST_LINE_BYTES or b"\0" in name:
                raise ServeError(f"{path}: line {number} is not a path; give a text file with one path per line")
            if name and names_uri(name):
                check_named(name, f"{path}: line {number}")
            if name:
                yield name


def _size(folder: str, name: bytes) -> int:
    """Return the size of a file in bytes, or -1 if it is a URI, or missing: its row will hold the error."""
    if names_uri(name):
        return -1
    try:
        return os.stat(os.path.join(os.fsencode(folder), name)).st_size  # noqa: PTH116, PTH118  # pathlib takes no bytes
    except OSError:
        return -1


def _walk(root: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield relative paths and sizes, sorted by the paths' bytes; keep only one folder and those above it in memory."""
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
                    f"{_display(folder)}: a link to a folder above it; remove the link, or give a smaller folder"
                )
            above.append((inside + name, identity, below))


def _open_folder(folder: bytes) -> tuple[tuple[int, int], Iterator[tuple[bytes, int | None]]]:
    """Return a folder's device and inode, and its entries. Raises ServeError when it cannot be listed."""
    try:
        status, entries = Path(os.fsdecode(folder)).stat(), _visible_entries(folder)
    except OSError as error:
        raise ServeError(f"{_display(folder)}: cannot be listed ({error.strerror}); grant read permission") from None
    return (status.st_dev, status.st_ino), iter(entries)


def _visible_entries(folder: bytes) -> list[tuple[bytes, int | None]]:
    """Return the visible files of a folder with sizes, and its subfolders (name with a slash, no size), sorted."""
    visible: list[tuple[bytes, int | None]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            try:
                mode, size = (status := entry.stat()).st_mode, status.st_size
            except OSError:
                mode, size = stat.S_IFREG, -1  # a broken link: an input whose row has the status read_error
            if stat.S_ISDIR(mode):
                visible.append((entry.name + b"/", None))
            elif stat.S_ISREG(mode):
                visible.append((entry.name, size))
    return sorted(visible)


def _display(folder: bytes) -> str:
    return source_text(folder.rstrip(b"/"))
