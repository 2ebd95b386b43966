"""Pillow's operations on RGB pixels, bit for bit but faster: many images in one call, without the interpreter lock.

An operation is a `PIXEL_OP` record. Its kinds: TABLE maps each level by `table`. STRETCH and EQUALIZE map the levels of
each colour by its histogram (ImageOps.autocontrast, equalize). CONTRAST, COLOR and SHARPNESS blend by `factor` with a
flat gray, the gray image, and a smoothed image (ImageEnhance). AFFINE samples bicubically through `matrix`, with `fill`
outside of the image (Image.transform).
"""

import ctypes
import enum
from collections.abc import Callable
from functools import cache

import numpy as np

from convnext_imagenet.model.kernels.build import kernels_library


class Kind(enum.IntEnum):
    """The kinds of operations; the numbers equal those of `Kind` in pixel_ops.cpp."""

    NONE = 0
    TABLE = 1
    STRETCH = 2
    EQUALIZE = 3
    CONTRAST = 4
    COLOR = 5
    SHARPNESS = 6
    AFFINE = 7


# The fields, and their order, equal those of the struct in pixel_ops.cpp.
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

    `ops_NK` holds `PIXEL_OP` records. Return False, with nothing changed, if there are no kernels. Raises MemoryError.
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
