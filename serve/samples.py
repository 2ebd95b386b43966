"""Reads one input for the network: loads, checks, decodes and transforms it.

Reading never raises for a bad input: `status` and `error` hold the reason. They are stored in PREDICTIONS, so after a
change of their words raise ROWS_VERSION (predict/schema.py). This file knows no networks.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels
from convnext_imagenet.records.images import BadImage, ImageInfo, decode_rgb, inspect_image
from convnext_imagenet.serve.inputs.inputs import Item

_STATUS_OF_REASON = {"too_large": "too_large", "dimensions": "too_large", "unsupported": "unsupported"}


@dataclass(frozen=True)
class Sample:
    """One input after reading. `pixels` is uint8 (S, S, 3), or None when `status` is not "ok".

    `status` is then "decode_error", "too_large", "unsupported", "read_error" or "timeout", and `error` says why.
    `sha256` is None for a file that could not be read or is too large to read; `info` is None without a whole header.
    `label` is the class index, if the source of the input knows it.
    """

    sample_id: int
    source: str
    sha256: str | None = None
    info: ImageInfo | None = None
    status: str = "ok"
    error: str | None = None
    pixels: np.ndarray | None = None
    label: int | None = None


def read_sample(item: Item, sample_id: int, transform: EvalTransform) -> Sample:
    """Return one input, loaded, decoded and transformed, or with the reason why it could not be."""
    try:
        data = item.load()
    except OSError as error:
        text = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return Sample(sample_id, item.source, status="read_error", error=text, label=item.label)
    except BadImage as error:
        return Sample(sample_id, item.source, status=_status(error), error=str(error), label=item.label)
    sha256, info = hashlib.sha256(data).hexdigest(), None
    try:
        info = inspect_image(data)
        pixels = evaluation_pixels(decode_rgb(data), transform)
    except BadImage as error:
        return Sample(sample_id, item.source, sha256, info, _status(error), str(error), label=item.label)
    return Sample(sample_id, item.source, sha256, info, pixels=pixels, label=item.label)


def timed_out(item: Item, sample_id: int, seconds: float) -> Sample:
    """Return the sample of an input whose reading and decoding took longer than `seconds`."""
    error = f"not read and decoded within {seconds:g} s"
    return Sample(sample_id, item.source, status="timeout", error=error, label=item.label)


def _status(error: BadImage) -> str:
    return _STATUS_OF_REASON.get(error.reason, "decode_error")
