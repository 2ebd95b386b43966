"""Files that survive a crash: whole or absent, forced to disk, identified by SHA-256, whatever they contain."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import MACHINE_ERRORS, ArtefactError, FailedError


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal; the order of keys does not matter.

    Raises ValueError for NaN and infinity, TypeError for what is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that readers see the old file or the new one, even after a crash.

    A device or pipe, such as /dev/null or /dev/stdout, is written into: a file must not take its place.

    Raises OSError, with `path` as its file name, when it cannot be written.
    """
    with naming(path):
        if _is_device(path):
            with path.open("ab") as device:
                device.write(data)
        else:
            _write_atomically(path, data)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of the block name `path`: a failed write names no file, and a temporary file says nothing."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _is_device(path: Path) -> bool:
    is_link_to_open_file = path.parent == Path("/dev") and path.is_symlink()
    return is_link_to_open_file or (path.exists() and not path.is_file() and not path.is_dir())


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two processes may write the same path
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        make_readable(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def make_readable(path: Path) -> None:
    """Give a file or folder the permissions of the user's umask; MindSpore creates its own with modes 600 and 700."""
    mask = os.umask(0o022)  # the umask can only be read by setting it
    os.umask(mask)
    path.chmod((0o755 if path.is_dir() else 0o644) & ~mask)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers in a folder, which may not exist; nobody else may be writing."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Return whether `write_atomically` may have left a file of this name when it was killed."""
    return name.startswith(".") and name.endswith(".tmp")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically; keys are sorted, so equal values give equal bytes.

    Raises ValueError for NaN and infinity, OSError when the file cannot be written.
    """
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in a file. Raises ArtefactError when the file is missing or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtefactError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path}: not valid JSON ({error}); the file is damaged, restore it from a copy") from None


def require_utf8(path: Path) -> None:
    """Raise ArtefactError when MindSpore would not find this path: it takes all paths as UTF-8."""
    try:
        is_same = str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:
        is_same = False
    if not is_same:
        raise ArtefactError(
            f"{str(path)!a}: MindSpore finds only paths that are UTF-8 text; "
            f"set LC_ALL=C.UTF-8, or choose a directory with an ASCII name"
        )


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises ArtefactError when a file is in the way or permission is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ArtefactError(f"{folder}: a file is in the way; choose another directory") from None
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be created ({error.strerror}); choose another directory") from None


def sync_file(path: Path) -> None:
    """Force a file's content to disk. Raises OSError, with `path` as its file name, when that fails."""
    with naming(path), path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force a folder's names to disk; a renamed file is safe only after this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_output(path: Path, payload: bytes) -> None:
    """Write `payload` atomically to a path that a user named.

    Raises FailedError when the disk is full or fails, ArtefactError when the path cannot be written.
    """
    try:
        write_atomically(path, payload)
    except OSError as error:
        kind = FailedError if error.errno in MACHINE_ERRORS else ArtefactError
        raise kind(f"{path}: cannot be written ({error.strerror}); choose another path or free space") from error


def publish_new(path: Path, payload: bytes) -> bool:
    """Write `payload` to `path` and return True; return False when the file already has these bytes.

    Raises ArtefactError when the file has other bytes or cannot be written.
    """
    if path.exists() or path.is_symlink():
        if path.is_file() and path.stat().st_size == len(payload) and path.read_bytes() == payload:
            return False
        raise ArtefactError(f"{path}: exists with other content; choose another name, or remove it first")
    if not path.parent.is_dir():
        raise ArtefactError(f"{path}: cannot be written: there is no folder {path.parent}; create it first")
    write_output(path, payload)
    return True
