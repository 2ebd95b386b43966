"""What an export must prove before it is published: that it answers as the network does."""

import numpy as np

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.transform import EvalTransform

_SEED = 0
_PICTURES = 3  # not a power of two: a batch size that was fixed by mistake shows


def probe_pixels(transform: EvalTransform) -> np.ndarray:
    """Random pixels (3, S, S, 3), uint8, always the same."""
    shape = (_PICTURES, transform.size_px, transform.size_px, 3)
    return np.random.default_rng(_SEED).integers(0, 256, shape, np.uint8)


def pixel_values(pixels_NHWC: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """The pixels in [0, 1], less the mean, over the standard deviation: (N, 3, S, S), float32."""
    x_NHWC = (pixels_NHWC / 255.0 - transform.mean) / transform.std
    return np.ascontiguousarray(x_NHWC.transpose(0, 3, 1, 2), dtype=np.float32)


def check_parity(answers: np.ndarray, expected: np.ndarray, limit: float, what: str) -> float:
    """The largest difference as a share of the largest expected value; ModelError above `limit`.

    NaN and infinity are refused, too: such a network has no answers to compare.
    """
    if answers.shape != expected.shape:
        raise ModelError(f"{what} answers with shape {answers.shape} instead of {expected.shape}; it is not published")
    if not np.isfinite(expected).all():
        raise ModelError(
            "the network answers with NaN or infinity; the checkpoint is damaged or its training diverged: use another"
        )
    scale = float(np.abs(expected).max()) or 1.0
    difference = float(np.abs(answers - expected).max()) / scale
    if not difference <= limit:  # NaN is above every limit
        raise ModelError(
            f"{what} differs from the network by {difference:.1e} of the largest logit, more than {limit:.0e}; "
            f"it is not published: please report this with the versions of the packages"
        )
    return difference
