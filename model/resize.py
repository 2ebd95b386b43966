"""Pillow's antialiased resize of a box by our C++ kernel: the same bits, several times faster.

Two passes in fixed point (22 fractional bits); the filter's weights are stretched when an image shrinks. Without the
kernel, Pillow does the work. The order of the passes is that of Pillow 13 (DECISIONS, 2026-11-24); a test compares
every bit with the installed Pillow. This file knows nothing of MindSpore.
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
_FRACTION_BITS = 22  # as in Pillow: 32 bits less 8 for a level and 2 for overflow, since weights may be negative
_KEPT_WEIGHTS = 4096  # most kept sets: the sides of a training set repeat
_LARGEST_KEPT_PX = 2048  # weights take 30 kB for 224 pixels from 2048; odd images must not fill the memory


def resize(
    pixels_HWC: np.ndarray,
    box: Box,
    size: tuple[int, int],
    interpolation: Interpolation,
    out: np.ndarray | None = None,
    window: Box | None = None,
) -> np.ndarray:
    """Return the box (top, left, height, width) of uint8 (H, W, 3) pixels resized to `size` (height, width).

    The result equals Pillow's `Image.resize` of the box alone; it is written to `out` (uint8, contiguous) if given.
    With `window`, a box of the result, only this part is computed and returned. Rows may be strided, pixels in a row
    may not. Raises ValueError for a box outside of the image or a window outside of the result, MemoryError.
    """
    check_box(box, *pixels_HWC.shape[:2])
    window = window or (0, 0, *size)
    check_box(window, *size)
    top, left, height, width = box
    crop_HWC = pixels_HWC[top : top + height, left : left + width]
    row, column, *shape = window
    result = np.empty((*shape, 3), np.uint8) if out is None else out
    kernel = _kernel()
    if kernel is None or crop_HWC.strides[1:] != (3, 1):
        image = Image.fromarray(np.ascontiguousarray(crop_HWC))
        whole = np.asarray(image.resize(size[::-1], _PILLOW[interpolation]))
        result[...] = whole[row : row + shape[0], column : column + shape[1]]
        return result
    down = pass_weights(height, size[0], interpolation, row, shape[0])
    across = pass_weights(width, size[1], interpolation, column, shape[1])
    if not down.taps:  # no resize in this direction: only the window is cut out
        crop_HWC = crop_HWC[row : row + shape[0]]
    if not across.taps:
        crop_HWC = crop_HWC[:, column : column + shape[1]]
    source = crop_HWC.ctypes.data, crop_HWC.strides[0], *crop_HWC.shape[:2]
    order = is_vertical_first((height, width), size)
    if kernel(*source, result.ctypes.data, *shape, order, *across.arguments, *down.arguments):
        raise MemoryError
    return result


def check_box(box: Box, height: int, width: int) -> None:
    """Raise ValueError for a box that is empty or not inside an image of `height` x `width` px."""
    top, left, box_height, box_width = box
    if not (0 <= top < top + box_height <= height and 0 <= left < left + box_width <= width):
        raise ValueError(f"box {box} is not inside an image of {height} x {width} px")


def is_vertical_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Return whether Pillow's vertical pass comes first: if it saves more than twice the lines of the other.

    Sizes are (height, width). Found by experiment (DECISIONS, 2026-11-24).
    """
    saved = old[0] - new[0]
    return saved > 0 and saved > 2 * (old[1] - new[1])


class Weights(NamedTuple):
    """For each pixel of the result: the first source pixel (n,), and the weights (n, taps), filled up with zeros.

    `taps` is 0, and both arrays are empty, if the side does not change.
    """

    first: np.ndarray
    weights: np.ndarray
    taps: int

    @property
    def arguments(self) -> tuple[int, int, int]:
        """Return the two addresses and `taps`, as the kernel takes them."""
        return self.first.ctypes.data, self.weights.ctypes.data, self.taps


def pass_weights(old: int, new: int, interpolation: Interpolation, start: int = 0, count: int | None = None) -> Weights:
    """Return Pillow's weights from `old` to `new` pixels, int32 with 22 fractional bits.

    Only for the `count` pixels of the result from `start` on; None means all. Sums are of doubles in Pillow's order.
    """
    make = _kept_weights if old <= _LARGEST_KEPT_PX else _make_weights
    return make(old, new, interpolation, start, new if count is None else count)


def _make_weights(old: int, new: int, interpolation: Interpolation, start: int, count: int) -> Weights:
    if old == new:
        return Weights(np.empty(0, np.int32), np.empty(0, np.int32), 0)
    reach, curve = _FILTERS[interpolation]
    scale = old / new
    stretch = max(scale, 1.0)
    reach *= stretch
    centre_N = (np.arange(start, start + count) + 0.5) * scale
    low_N = np.maximum(0, (centre_N - reach + 0.5).astype(np.int64))
    high_N = np.minimum(old, (centre_N + reach + 0.5).astype(np.int64))
    taps = int((high_N - low_N).max())
    # A window near the end starts earlier, behind zeros, so that no tap lies outside of the image.
    first_N = np.minimum(low_N, old - taps)
    at_NT = first_N[:, None] + np.arange(taps)
    values_NT = curve((at_NT - centre_N[:, None] + 0.5) * (1.0 / stretch))
    values_NT[(at_NT < low_N[:, None]) | (at_NT >= high_N[:, None])] = 0.0
    total_N = np.zeros(count)
    for values_N in values_NT.T:  # one by one: NumPy's own sum adds in another order
        total_N += values_N
    values_NT *= (1.0 / np.where(total_N == 0.0, 1.0, total_N))[:, None]
    fixed_NT = np.trunc(values_NT * (1 << _FRACTION_BITS) + np.where(values_NT < 0, -0.5, 0.5))
    return Weights(first_N.astype(np.int32), fixed_NT.astype(np.int32), taps)


_kept_weights = lru_cache(_KEPT_WEIGHTS)(_make_weights)


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _bicubic(x: np.ndarray) -> np.ndarray:
    a, x = -0.5, np.abs(x)
    near, far = ((a + 2.0) * x - (a + 3.0)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _sinc(x: np.ndarray) -> np.ndarray:
    angle = np.where(x == 0.0, 1.0, x * math.pi)
    return np.where(x == 0.0, 1.0, np.sin(angle) / angle)


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where((x >= -3.0) & (x < 3.0), _sinc(x) * _sinc(x / 3), 0.0)


_FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
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
