"""Checks an export before it is published: its answers must be those of the network."""

import numpy as np

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.transform import EvalTransform

_SEED = 0  # the same pixels every time, so that a failure can be repeated
_PICTURES = 3  # unlike any usual batch size, so that a batch size fixed by mistake is found


def probe_pixels(transform: EvalTransform) -> np.ndarray:
    """Return random pixels (3, S, S, 3), uint8, always the same."""
    shape = (_PICTURES, transform.size_px, transform.size_px, 3)
    return np.random.default_rng(_SEED).integers(0, 256, shape, np.uint8)


def pixel_values(pixels_NHWC: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """Return (pixels / 255 - mean) / std of uint8 pixels (N, S, S, 3), as float32 (N, 3, S, S)."""
    x_NHWC = (pixels_NHWC / 255.0 - transform.mean) / transform.std
    return np.ascontiguousarray(x_NHWC.transpose(0, 3, 1, 2), dtype=np.float32)


def check_parity(answers: np.ndarray, expected: np.ndarray, limit: float, what: str) -> float:
    """Return the largest difference as a share of the largest expected value.

    Raises ModelError above `limit`, for another shape, and for NaN or infinity, which cannot be compared.
    """
    if answers.shape != expected.shape:
        raise ModelError(
            f"{what} returns shape {answers.shape} instead of {expected.shape}, so it is not published; please "
            f"report this with the versions of the packages"
        )
    if not np.isfinite(expected).all():
        raise ModelError(
            "the network returns NaN or infinity; the checkpoint is damaged or its training diverged: use another "
            "checkpoint"
        )
    scale = float(np.abs(expected).max()) or 1.0
    difference = float(np.abs(answers - expected).max()) / scale
    if not difference <= limit:  # NaN is above every limit
        raise ModelError(
            f"{what} differs from the network by {difference:.1e} of the largest logit, more than {limit:.0e}, so it "
            f"is not published; please report this with the versions of the packages"
        )
    return difference
