"""Reads one input for the network in two steps: loads its bytes, then checks, decodes and transforms them.

Neither step raises for a bad input: `status` and `error` hold the reason. They are stored in PREDICTIONS, so after a
change of their words raise ROWS_VERSION (predict/schema.py). This file knows no networks.
"""

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels
from convnext_imagenet.records.images import BadImage, ImageInfo, decode_rgb, inspect_image
from convnext_imagenet.serve.inputs.inputs import Item

ERROR_STATUSES = ("decode_error", "too_large", "unsupported", "read_error", "timeout")
_STATUS_OF_REASON = {"too_large": "too_large", "dimensions": "too_large", "unsupported": "unsupported"}
# Failures of an input that another attempt would only repeat; the texts are those of the stores of `pyarrow.fs`.
_LASTING = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ENOTDIR}
_LASTING_TEXTS = ("ACCESS_DENIED", "HTTP status 401", "HTTP status 403")


@dataclass(frozen=True)
class Loaded:
    """One input after loading: its bytes, or why there are none.

    `status` is "ok", or that of the row. `error` is the failure itself when the place of the input failed, and None
    when the input is there but must not be read.
    """

    sample_id: int
    item: Item
    data: bytes = b""
    status: str = "ok"
    text: str | None = None
    error: OSError | None = None


@dataclass(frozen=True)
class Sample:
    """One input after reading. `pixels` is uint8 (S, S, 3), or None when `status` is not "ok".

    `status` is then one of ERROR_STATUSES, and `error` says why. `is_unread` says that the place of the input failed,
    such as a store or a disk, and not the input: another attempt may succeed. `sha256` is None for a file that could
    not be read or is too large to read; `info` is None without a whole header. `label` is the class index, if the
    source of the input knows it; `kept` are its values for the row.
    """

    sample_id: int
    source: str
    sha256: str | None = None
    info: ImageInfo | None = None
    status: str = "ok"
    error: str | None = None
    pixels: np.ndarray | None = None
    label: int | None = None
    is_unread: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)


def read_sample(item: Item, sample_id: int, transform: EvalTransform) -> Sample:
    """Return one input, loaded, decoded and transformed, or with the reason why it could not be."""
    return decode_sample(load_sample(item, sample_id), transform)


def load_sample(item: Item, sample_id: int) -> Loaded:
    """Return the bytes of one input, or why they could not be read."""
    try:
        return Loaded(sample_id, item, item.load())
    except OSError as error:
        text = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return Loaded(sample_id, item, status="read_error", text=text, error=error)
    except BadImage as error:
        return Loaded(sample_id, item, status=_status(error), text=str(error))


def decode_sample(loaded: Loaded, transform: EvalTransform) -> Sample:
    """Return a loaded input, decoded and transformed, or with the reason why it could not be."""
    return _with_item(_decoded(loaded, transform), loaded.item)


def _decoded(loaded: Loaded, transform: EvalTransform) -> Sample:
    item, sample_id, data = loaded.item, loaded.sample_id, loaded.data
    if loaded.status != "ok":
        is_unread = loaded.status == "timeout" or _is_unread(loaded.error)
        return Sample(sample_id, item.source, status=loaded.status, error=loaded.text, is_unread=is_unread)
    sha256, info = hashlib.sha256(data).hexdigest(), None
    try:
        info = inspect_image(data)
        pixels = evaluation_pixels(decode_rgb(data), transform)
    except BadImage as error:
        return Sample(sample_id, item.source, sha256, info, _status(error), str(error))
    return Sample(sample_id, item.source, sha256, info, pixels=pixels)


def _with_item(sample: Sample, item: Item) -> Sample:
    """Return a sample with what its input knows besides the image."""
    return replace(sample, label=item.label, kept=item.kept)


def load_timed_out(item: Item, sample_id: int, seconds: float) -> Loaded:
    """Return what stands for an input whose reading took longer than `seconds`."""
    return Loaded(sample_id, item, status="timeout", text=f"not read within {seconds:g} s")


def decode_timed_out(loaded: Loaded, seconds: float) -> Sample:
    """Return the sample of an input whose decoding took longer than `seconds`."""
    item, error = loaded.item, f"not decoded within {seconds:g} s"
    return _with_item(Sample(loaded.sample_id, item.source, status="timeout", error=error), item)


def is_worth_a_retry(error: OSError) -> bool:
    """Return whether reading the same input again may succeed: not for one that is missing, forbidden or no file."""
    is_lasting = error.errno in _LASTING or any(text in str(error) for text in _LASTING_TEXTS)
    return _is_unread(error) and not is_lasting


def _is_unread(error: OSError | None) -> bool:
    """Return whether the place failed. A place that answers that there is no such file has not failed."""
    return error is not None and not isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)


def _status(error: BadImage) -> str:
    return _STATUS_OF_REASON.get(error.reason, "decode_error")
