"""Pillow's antialiased resize of a box, by our C++ kernel where it can be had: the same bits, several times faster.

Two passes in fixed point (22 fractional bits); a filter's weights are stretched when an image shrinks. Without the
kernel Pillow itself does the work. The order of the passes is that of Pillow 13; a test compares every bit with the
Pillow that is installed. This file knows nothing of MindSpore.
"""

import ctypes
import math
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from convnext_imagenet.model.kernels.build import kernels_library

Interpolation = Literal["bicubic", "bilinear", "lanczos"]
Box = tuple[int, int, int, int]

_PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_FRACTION_BITS = 22
_CACHED_WEIGHTS = 4096


def resize(
    pixels_HWC: np.ndarray,
    box: Box,
    size: tuple[int, int],
    interpolation: Interpolation,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the box (top, left, height, width) of uint8 (H, W, 3) pixels resized to `size` (height, width).

    The result is that of cutting the box out and Pillow's `Image.resize`; it is written to `out` (uint8, contiguous) if
    given. Rows may be strided, pixels within a row may not. Raises ValueError for a box outside of the image.
    """
    top, left, height, width = box
    if not (0 <= top < top + height <= pixels_HWC.shape[0] and 0 <= left < left + width <= pixels_HWC.shape[1]):
        raise ValueError(f"box {box} is not inside an image of {pixels_HWC.shape[0]} x {pixels_HWC.shape[1]} px")
    crop_HWC = pixels_HWC[top : top + height, left : left + width]
    result = np.empty((*size, 3), np.uint8) if out is None else out
    kernel = _kernel()
    if kernel is None or crop_HWC.strides[1:] != (3, 1):
        image = Image.fromarray(np.ascontiguousarray(crop_HWC))
        result[...] = np.asarray(image.resize(size[::-1], _PILLOW[interpolation]))
        return result
    across, down = _weights(width, size[1], interpolation), _weights(height, size[0], interpolation)
    source = crop_HWC.ctypes.data, crop_HWC.strides[0], height, width
    order = is_vertical_first((height, width), size)
    if kernel(*source, result.ctypes.data, *size, order, *across.arguments, *down.arguments):
        raise MemoryError
    return result


def is_vertical_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether Pillow's vertical pass comes first: when it saves over twice the lines (sizes are height, width)."""
    saved = old[0] - new[0]
    return saved > 0 and saved > 2 * (old[1] - new[1])


class _Weights(NamedTuple):
    """For each pixel of the result: the first pixel that it draws on, and its weights, zeros behind the last.

    `taps` is 0, and both arrays are empty, where nothing has to be done.
    """

    first: np.ndarray
    weights: np.ndarray
    taps: int

    @property
    def arguments(self) -> tuple[int, int, int]:
        """As the kernel takes them."""
        return self.first.ctypes.data, self.weights.ctypes.data, self.taps


@lru_cache(_CACHED_WEIGHTS)
def _weights(old: int, new: int, interpolation: Interpolation) -> _Weights:
    """Pillow's weights from `old` to `new` pixels, int32, 22 fractional bits; computed in doubles, in its order."""
    if old == new:
        return _Weights(np.empty(0, np.int32), np.empty(0, np.int32), 0)
    reach, curve = _FILTERS[interpolation]
    scale = old / new
    stretch = max(scale, 1.0)
    reach *= stretch
    taps = min(old, math.ceil(reach) * 2 + 1)
    first, table = np.zeros(new, np.int32), np.zeros((new, taps), np.int32)
    for place in range(new):
        centre = (place + 0.5) * scale
        low, high = max(0, int(centre - reach + 0.5)), min(old, int(centre + reach + 0.5))
        values = [curve((at - centre + 0.5) * (1.0 / stretch)) for at in range(low, high)]
        total = _running_sum(values)
        normal = [value * (1.0 / total) if total else value for value in values]
        # A window near the end starts earlier, behind zeros, so that no tap lies outside of the image.
        first[place] = min(low, old - taps)
        shift = low - first[place]
        table[place, shift : shift + len(normal)] = [_fixed(value) for value in normal]
    return _Weights(first, table, taps)


def _running_sum(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def _fixed(value: float) -> int:
    return int(value * (1 << _FRACTION_BITS) + (0.5 if value >= 0 else -0.5))


def _bilinear(x: float) -> float:
    x = abs(x)
    return 1.0 - x if x < 1.0 else 0.0


def _bicubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


_FILTERS: dict[str, tuple[float, Callable[[float], float]]] = {
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}


@cache
def _kernel() -> Callable[..., int] | None:
    library = kernels_library()
    if library is None:
        return None
    function = ctypes.CDLL(str(library)).convnext_resize
    pointer, number = ctypes.c_void_p, ctypes.c_int
    function.argtypes = [
        pointer, ctypes.c_int64, number, number, pointer, number, number, number, pointer, pointer, number, pointer,
        pointer, number,
    ]  # fmt: skip
    function.restype = number
    return function
