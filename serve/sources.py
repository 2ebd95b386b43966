"""Image files as inputs: listed in one fixed order, and read into pixels or into the reason why not.

No input is lost: every regular file that is not hidden is an input, whatever its name ends in, and reading one
never raises. Symbolic links are followed.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels
from convnext_imagenet.records.images import LARGEST_FILE_BYTES, BadImage, ImageInfo, decode_rgb, inspect_image
from convnext_imagenet.serve.errors import ServeError

STATUSES = ("ok", "decode_error", "too_large", "unsupported", "read_error")
_STATUS_OF_REASON = {"too_large": "too_large", "dimensions": "too_large", "unsupported": "unsupported"}


@dataclass(frozen=True)
class Inputs:
    """The files under `root`: relative paths in the order of their bytes, and the SHA-256 of paths and sizes."""

    root: Path
    names: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Sample:
    """One input as it was read. `pixels` is uint8 (S, S, 3), or None when `status` is not ok.

    `sha256` is None for a file that could not be read or has more bytes than are read; `width`, `height` and
    `mode` are None when the header was not whole.
    """

    sample_id: int
    source: str
    sha256: str | None = None
    info: ImageInfo | None = None
    status: str = "ok"
    error: str | None = None
    pixels: np.ndarray | None = None


def list_inputs(root: Path) -> Inputs:
    """Every regular file under `root` that is not hidden, nor in a hidden folder; ServeError when there is none.

    A link that leads nowhere is an input too (it becomes a row that says so); one that leads back to a folder
    above it is refused. Sockets, pipes and devices are left out.
    """
    if not root.is_dir():
        what = "a file, expected a directory of images; for single files use `convnext-serve infer`"
        raise ServeError(f"{root}: {what if root.exists() else 'no such directory'}")
    found = sorted((os.fsencode(path.relative_to(root)), size) for path, size in _walk(root, frozenset()))
    if not found:
        raise ServeError(f"{root}: holds no files (hidden ones are left out); nothing to predict")
    digest = hashlib.sha256()
    for name, size in found:
        digest.update(b"%d %d " % (len(name), size) + name)
    return Inputs(root=root, names=tuple(os.fsdecode(name) for name, _ in found), sha256=digest.hexdigest())


def read_sample(root: Path, name: str, sample_id: int, transform: EvalTransform) -> Sample:
    """One input, decoded and transformed; what is wrong with it goes into `status` and `error`."""
    source = source_text(name)
    try:
        data = _read_bytes(root / name)
    except OSError as error:
        return Sample(sample_id, source, status="read_error", error=error.strerror or type(error).__name__)
    except BadImage as error:
        return Sample(sample_id, source, status=_status(error), error=str(error))
    sha256, info = hashlib.sha256(data).hexdigest(), None
    try:
        info = inspect_image(data)
        pixels = evaluation_pixels(decode_rgb(data), transform)
    except BadImage as error:
        return Sample(sample_id, source, sha256, info, _status(error), str(error))
    return Sample(sample_id, source, sha256, info, pixels=pixels)


def source_text(path: Path | str) -> str:
    r"""A path as text that every tool can print; bytes that are not UTF-8 are written as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(LARGEST_FILE_BYTES + 1)
        if len(data) > LARGEST_FILE_BYTES:
            size = os.fstat(file.fileno()).st_size
            raise BadImage("too_large", f"{size} bytes, at most {LARGEST_FILE_BYTES} are read")
    return data


def _status(error: BadImage) -> str:
    return _STATUS_OF_REASON.get(error.reason, "decode_error")


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, int]]:
    try:
        status, entries = folder.stat(), list(folder.iterdir())
    except OSError as error:
        raise ServeError(
            f"{source_text(folder)}: cannot be listed ({error.strerror}); grant the right to read it"
        ) from None
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        raise ServeError(f"{source_text(folder)}: a link to a folder above it; remove it, or name a smaller directory")
    for path in entries:
        if path.name.startswith("."):
            continue
        mode, size = _mode_and_size(path)
        if stat.S_ISDIR(mode):
            yield from _walk(path, above | {identity})
        elif stat.S_ISREG(mode):
            yield path, size


def _mode_and_size(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return stat.S_IFREG, -1  # a dead link: an input that becomes a row with read_error
    return status.st_mode, status.st_size
