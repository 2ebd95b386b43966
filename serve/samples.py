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

from convnext_imagenet.base.stores import is_final
from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels
from convnext_imagenet.records.image_headers import (
    USUAL_LIMITS,
    BadImage,
    ImageInfo,
    PixelLimits,
    TooManyPixels,
    inspect_image,
)
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.serve.damage import LostPart, refuse_lost_part
from convnext_imagenet.serve.inputs.inputs import Item
from convnext_imagenet.serve.orientation import orientation_of, turned
from convnext_imagenet.serve.other_kinds import Decoded, decode_other, pillow_formats

ERROR_STATUSES = ("decode_error", "damaged", "too_large", "unsupported", "read_error", "timeout")
_STATUS_OF_REASON = {
    "too_large": "too_large", "dimensions": "too_large", "unsupported": "unsupported", "timeout": "timeout",
}  # fmt: skip
# Failures of an input that another attempt would only repeat.
_LASTING = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR, errno.ENOTDIR}


@dataclass(frozen=True)
class Decoding:
    """How bytes become pixels: the most pixels, whether the EXIF orientation is applied, and a decoder's time limit.

    `refuses_damage` looks for JPEGs of which a part is lost.
    """

    limits: PixelLimits = USUAL_LIMITS
    applies_exif: bool = False
    limit_s: float = 60.0
    refuses_damage: bool = True


USUAL_DECODING = Decoding()


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
    not be read or is too large to read; `info` is None without a whole header; `orientation` is that of EXIF. `label`
    is the class index, if the source of the input knows it; `kept` are its values for the row.
    """

    sample_id: int
    source: str
    sha256: str | None = None
    info: ImageInfo | None = None
    orientation: int | None = None
    status: str = "ok"
    error: str | None = None
    pixels: np.ndarray | None = None
    label: int | None = None
    is_unread: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)


def read_sample(item: Item, sample_id: int, transform: EvalTransform, decoding: Decoding = USUAL_DECODING) -> Sample:
    """Return one input, loaded, decoded and transformed, or with the reason why it could not be."""
    return decode_sample(load_sample(item, sample_id), transform, decoding)


def load_sample(item: Item, sample_id: int) -> Loaded:
    """Return the bytes of one input, or why they could not be read."""
    try:
        return Loaded(sample_id, item, item.load())
    except OSError as error:
        text = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return Loaded(sample_id, item, status="read_error", text=text, error=error)
    except BadImage as error:
        return Loaded(sample_id, item, status=_status(error), text=str(error))


def decode_sample(loaded: Loaded, transform: EvalTransform, decoding: Decoding = USUAL_DECODING) -> Sample:
    """Return a loaded input, decoded and transformed, or with the reason why it could not be."""
    return _with_item(_sample(loaded, transform, decoding), loaded.item)


def _sample(loaded: Loaded, transform: EvalTransform, decoding: Decoding) -> Sample:
    item, sample_id, data = loaded.item, loaded.sample_id, loaded.data
    if loaded.status != "ok":
        is_unread = loaded.status == "timeout" or _is_unread(loaded.error)
        return Sample(sample_id, item.source, status=loaded.status, error=loaded.text, is_unread=is_unread)
    sample = Sample(sample_id, item.source, hashlib.sha256(data).hexdigest())
    try:
        decoded = decode_image(data, decoding)
    except BadImage as error:
        return replace(sample, info=_known_info(data, error, decoding), status=_status(error), error=str(error))
    sample = replace(sample, info=decoded.info, orientation=decoded.orientation)
    return replace(sample, pixels=evaluation_pixels(decoded.pixels, transform))


def decode_image(data: bytes, decoding: Decoding = USUAL_DECODING) -> Decoded:
    """Return an image of any kind, turned if `decoding` says so. Raises BadImage."""
    if formats := pillow_formats(data):
        decoded = decode_other(data, formats, decoding.limits, decoding.limit_s)
    else:
        info = inspect_image(data, decoding.limits)
        if decoding.refuses_damage:
            refuse_lost_part(data)
        decoded = Decoded(info, decode_rgb(data, decoding.limits), orientation_of(data))
    return replace(decoded, pixels=turned(decoded.pixels, decoded.orientation)) if decoding.applies_exif else decoded


def _known_info(data: bytes, error: BadImage, decoding: Decoding) -> ImageInfo | None:
    """Return what the header of an image that cannot be decoded says, if it is whole."""
    if isinstance(error, TooManyPixels):
        return error.info
    try:
        return inspect_image(data, decoding.limits)
    except BadImage:
        return None


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
    return _is_unread(error) and error.errno not in _LASTING and not is_final(error)


def _is_unread(error: OSError | None) -> bool:
    """Return whether the place failed. A place that answers that there is no such file has not failed."""
    return error is not None and not isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)


def _status(error: BadImage) -> str:
    if isinstance(error, LostPart):
        return "damaged"
    return _STATUS_OF_REASON.get(error.reason, "decode_error")
