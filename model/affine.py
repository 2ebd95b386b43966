"""Pillow's bicubic affine transform, by our C++ kernel where it can be had: the same bits, several times faster."""

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from convnext_imagenet.model.kernels.build import kernels_library

Matrix = tuple[float, float, float, float, float, float]


def affine(pixels_HWC: np.ndarray, matrix: Matrix, fill_rgb: tuple[int, int, int]) -> np.ndarray:
    """Return uint8 (H, W, 3) pixels whose one at x, y comes from a x + b y + c, d x + e y + f of `pixels_HWC`.

    Centres of pixels are at halves. Cubic convolution with a = -1; places outside of the image get `fill_rgb`.
    """
    kernel = _kernel()
    height, width, _ = pixels_HWC.shape
    if kernel is None:
        transform, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
        image = Image.fromarray(pixels_HWC)
        return np.asarray(image.transform((width, height), transform, matrix, bicubic, fillcolor=fill_rgb))
    source = np.ascontiguousarray(pixels_HWC)
    result = np.empty_like(source)
    numbers, fill = (ctypes.c_double * 6)(*matrix), bytes(fill_rgb)
    if kernel(source.ctypes.data, result.ctypes.data, height, width, numbers, fill):
        raise MemoryError
    return result


@cache
def _kernel() -> Callable[..., int] | None:
    library = kernels_library()
    if library is None:
        return None
    function = ctypes.CDLL(str(library)).convnext_affine
    pointer, number = ctypes.c_void_p, ctypes.c_int
    function.argtypes = [pointer, pointer, number, number, pointer, ctypes.c_char_p]
    function.restype = number
    return function
