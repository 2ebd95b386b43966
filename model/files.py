"""A file that is whole or absent: written beside its place, forced to disk, moved."""

import contextlib
import os
from pathlib import Path

from convnext_imagenet.model.errors import ModelError


def write_whole(path: Path, payload: bytes) -> None:
    """Put `payload` under `path`, replacing what is there; ModelError, and nothing changed, when it cannot be."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be written ({error}); choose another place or make room") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def publish_new(path: Path, payload: bytes) -> bool:
    """Put `payload` under `path`; False, and nothing done, when it is there already, byte for byte.

    Raises ModelError when something else is there, or it cannot be written.
    """
    if path.exists() or path.is_symlink():
        if path.is_file() and path.stat().st_size == len(payload) and path.read_bytes() == payload:
            return False
        raise ModelError(f"{path}: exists and holds something else; choose another name, or remove it first")
    if not path.parent.is_dir():
        raise ModelError(f"{path}: cannot be written, there is no folder {path.parent}; make it first")
    write_whole(path, payload)
    return True
