"""Pillow's operations on RGB pixels, many images in one call that holds no interpreter lock: the same bits, faster.

An operation is a `PIXEL_OP` record. What a kind makes of an image: TABLE maps each level by `table`; STRETCH and
EQUALIZE map each colour's levels by its histogram (ImageOps.autocontrast, equalize); CONTRAST, COLOR and SHARPNESS
blend by `factor` with a flat gray, the gray image and a smoothed one (ImageEnhance); AFFINE samples bicubically through
`matrix`, with `fill` outside (Image.transform).
"""

import ctypes
import enum
from collections.abc import Callable
from functools import cache

import numpy as np

from convnext_imagenet.model.kernels.build import kernels_library


class Kind(enum.IntEnum):
    """The numbers are those of `Kind` in pixel_ops.cpp."""

    NONE = 0
    TABLE = 1
    STRETCH = 2
    EQUALIZE = 3
    CONTRAST = 4
    COLOR = 5
    SHARPNESS = 6
    AFFINE = 7


PIXEL_OP = np.dtype(
    [
        ("kind", np.int32),
        ("factor", np.float32),
        ("matrix", np.float64, 6),
        ("table", np.uint8, 256),
        ("fill", np.uint8, 8),
    ]
)


def apply_pixel_ops(pixels_NHWC: np.ndarray, ops_NK: np.ndarray) -> bool:
    """Apply each image's K operations in turn, in place, to contiguous uint8 (N, H, W, 3) pixels.

    `ops_NK` holds `PIXEL_OP` records. Returns False, with nothing changed, where there are no kernels.
    """
    kernel = _kernel()
    if kernel is None:
        return False
    ops = np.ascontiguousarray(ops_NK, PIXEL_OP)
    if kernel(pixels_NHWC.ctypes.data, *pixels_NHWC.shape[:3], ops.ctypes.data, ops.shape[1]):
        raise MemoryError
    return True


@cache
def _kernel() -> Callable[..., int] | None:
    library = kernels_library()
    if library is None:
        return None
    function = ctypes.CDLL(str(library)).convnext_pixel_ops
    pointer, number = ctypes.c_void_p, ctypes.c_int
    function.argtypes = [pointer, number, number, number, pointer, number]
    function.restype = number
    return function
