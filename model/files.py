"""A file that is whole or absent: written beside its place, forced to disk, moved."""

import contextlib
import os
from pathlib import Path

from convnext_imagenet.model.errors import ModelError


def write_whole(path: Path, payload: bytes) -> None:
    """Put `payload` under `path`, replacing what is there; ModelError, and nothing changed, when it cannot be."""
    partial = path.with_name(f".{path.name}.partial")
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
