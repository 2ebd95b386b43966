"""Files that survive a crash: whole or absent, forced to disk, and named by their SHA-256."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """The SHA-256 of a JSON value, the same for every order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` under `path` so that a reader, also after a crash, sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    """Let others read a file as far as the user's umask does; MindSpore leaves its files at mode 600."""
    mask = os.umask(0o022)
    os.umask(mask)
    path.chmod(0o644 & ~mask)


def is_leftover(name: str) -> bool:
    """True for the name of a file that `write_atomically` leaves when it is killed half-way."""
    return name.startswith(".") and name.endswith(".tmp")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically, keys sorted, so that equal values are equal bytes."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file; ArtefactError when the file is missing or is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtefactError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path}: not valid JSON ({error}); the file is damaged") from None


def require_utf8(path: Path) -> None:
    """Raise ArtefactError when MindSpore, which takes paths as UTF-8, would not find this one in this locale."""
    try:
        is_same = str(path).encode() == os.fsencode(path)
    except UnicodeEncodeError:
        is_same = False
    if not is_same:
        raise ArtefactError(
            f"{str(path)!a}: MindSpore finds only paths that are UTF-8 text; "
            f"set LC_ALL=C.UTF-8, or choose a directory with a plain name"
        )


def make_folder(folder: Path) -> None:
    """Make a folder and its parents; ArtefactError when a file is in the way or rights are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ArtefactError(f"{folder}: a file is in the way; choose another directory") from None
    except OSError as error:
        raise ArtefactError(f"{folder}: cannot be made ({error.strerror}); choose another directory") from None


def sync_file(path: Path) -> None:
    """Force a file's content to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force a folder's names to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_output(path: Path, payload: bytes) -> None:
    """Put `payload` under a path that a user named, as `write_atomically` does; ArtefactError when it cannot be."""
    try:
        write_atomically(path, payload)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written ({error}); choose another place or make room") from error


def publish_new(path: Path, payload: bytes) -> bool:
    """Put `payload` under `path`; False, and nothing done, when it is there already, byte for byte.

    Raises ArtefactError when something else is there, or it cannot be written.
    """
    if path.exists() or path.is_symlink():
        if path.is_file() and path.stat().st_size == len(payload) and path.read_bytes() == payload:
            return False
        raise ArtefactError(f"{path}: exists and holds something else; choose another name, or remove it first")
    if not path.parent.is_dir():
        raise ArtefactError(f"{path}: cannot be written, there is no folder {path.parent}; make it first")
    write_output(path, payload)
    return True
