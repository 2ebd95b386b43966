"""What the audit keeps of an image: a digest of its pixels, small gray pictures of it, and 64-bit hashes of these.

A hash has the signs of the 64 lowest frequencies of a small picture's cosine transform, so brightness and contrast do
not change it, and the hash of the mirror image differs in known bits. A crop moves every frequency. So each picture has
a hash for each of 19 square windows, and a crop is near the hash of one of them. A mark in a corner moves every
frequency, too. So there are hashes of the picture without its upper and without its lower part. Knows nothing of files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from convnext_imagenet.records.small_picture import SMALL_PX, shrink

# Raise when the same pixels give another fingerprint: audits of the old version are then refused.
FINGERPRINT_VERSION = 1
DIGEST_BYTES = 16
_FREQUENCIES = 11  # along each side; the 64 lowest of their pairs make the hash
_BITS = 64
# Start and length of square windows along one side, as parts of the side.
_LENGTHS = ((1.0, (0.0,)), (0.95, (0.0, 0.025, 0.05)), (0.9, (0.0, 0.05, 0.1)))
_UNMARKED = 0.84  # of the height: what remains without the part that may hold a mark
_BORDER_LEVELS = 10.0  # a border line is as uniform as this, of 255: re-encoding moves a uniform line by less
_WIDEST_BORDER = 0.25  # of a side
_LEAST_EVEN = 3.0  # levels of 255: the outermost line of a stored picture of an image with a border is more even
_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Fingerprint:
    """`pixels` is a digest of size and decoded pixels, None of an image that was not decoded; `small` is the image as
    uint8 (48, 48), gray.

    `inner` is the image without its uniform border in the same form, None without a border. `contrast` is the standard
    deviation of `small`, in levels of 255; `content` is the part of the area inside the border.
    """

    pixels: bytes | None
    small: np.ndarray
    inner: np.ndarray | None
    contrast: float
    content: float


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Return the fingerprint of an image, uint8 (height, width, 3) in RGB order."""
    height, width = image.shape[:2]
    digest = hashlib.blake2b(f"{height} {width} ".encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(image).data)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = shrink(gray)
    top, bottom, left, right = _inside_border(gray)
    content = (bottom - top) * (right - left) / (height * width)
    inner = shrink(gray[top:bottom, left:right]) if content < 1 else None
    return Fingerprint(digest.digest(), small, inner, float(small.std()), content)


def stored_fingerprint(small: np.ndarray) -> Fingerprint:
    """Return what a stored picture, uint8 (48, 48), says of an image without a border."""
    return Fingerprint(None, small, None, float(small.std()), 1.0)


def could_have_border(small: np.ndarray) -> bool:
    """Return whether the image of a stored picture may have a uniform border: one of its outermost lines is even."""
    lines = np.stack([small[0], small[-1], small[:, 0], small[:, -1]]).astype(np.float32)
    off = np.abs(lines - np.median(lines, axis=1, keepdims=True))
    return bool((off.mean(1) < _LEAST_EVEN).any())


@dataclass(frozen=True)
class Window:
    """A part of a picture: its upper left corner and size, as parts of the sides."""

    top: float
    left: float
    height: float
    width: float


CROPS = tuple(
    Window(top, left, length, length) for length, starts in _LENGTHS for top in starts for left in starts
)  # the first is the whole picture
UNMARKED = (Window(0.0, 0.0, _UNMARKED, 1.0), Window(1 - _UNMARKED, 0.0, _UNMARKED, 1.0))


def window_hashes(smalls: np.ndarray, windows: Sequence[Window]) -> np.ndarray:
    """Return the hash of each window of each picture, uint64 (n, windows), of uint8 (n, 48, 48)."""
    starts = range(0, len(smalls), _ROWS_AT_A_TIME)
    hashes = [_hashes(smalls[start : start + _ROWS_AT_A_TIME], windows) for start in starts]
    return np.concatenate([np.zeros((0, len(windows)), np.uint64), *hashes])


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """Return the hashes of the mirror images: frequencies that are odd along the width change their sign."""
    odd = np.array([horizontal % 2 == 1 for _, horizontal in _pairs()])
    return hashes ^ _pack(odd[None])[0]


@cache
def _pairs() -> tuple[tuple[int, int], ...]:
    pairs = [(v, h) for v in range(_FREQUENCIES) for h in range(_FREQUENCIES) if v + h]
    return tuple(sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:_BITS])


@cache
def _window_matrix(start: float, length: float) -> np.ndarray:
    """Return the matrix (frequencies, 48) from the pixels of a side to the cosine transform of a window of it."""
    positions = (start + length * (np.arange(SMALL_PX) + 0.5) / SMALL_PX) * SMALL_PX - 0.5
    weights = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(SMALL_PX)))  # linear interpolation
    weights /= weights.sum(1, keepdims=True)
    steps = np.arange(_FREQUENCIES)[:, None] * (np.arange(SMALL_PX) + 0.5)
    return (np.cos(np.pi * steps / SMALL_PX) @ weights).astype(np.float32)


def _hashes(smalls: np.ndarray, windows: Sequence[Window]) -> np.ndarray:
    pixels = smalls.astype(np.float32)
    vertical, horizontal = np.array(_pairs()).T
    by_rows: dict[tuple[float, float], np.ndarray] = {}
    columns = []
    for window in windows:
        rows = (window.top, window.height)
        if rows not in by_rows:
            by_rows[rows] = _window_matrix(*rows) @ pixels
        spectrum = by_rows[rows] @ _window_matrix(window.left, window.width).T
        columns.append(_pack(spectrum[:, vertical, horizontal] > 0))
    return np.stack(columns, 1)


def _pack(bits: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)[:, 0]


def _inside_border(gray: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of what lies inside a uniform border; the whole image without one."""
    top, bottom = _border(gray)
    left, right = _border(gray.T)
    return top, gray.shape[0] - bottom, left, gray.shape[1] - right


def _border(gray: np.ndarray) -> tuple[int, int]:
    """Return how many rows at the start and at the end are uniform and like the first and last row."""
    widest = int(len(gray) * _WIDEST_BORDER)
    return _uniform_rows(gray[:widest]), _uniform_rows(gray[::-1][:widest])


def _uniform_rows(rows: np.ndarray) -> int:
    if not rows.size:
        return 0
    level = np.float32(np.median(rows[0]))
    done, count = 0, 1
    while done < len(rows):  # most images have no border, and their first row says so
        off = np.abs(rows[done : done + count] - level)
        is_border = off.mean(1) < _BORDER_LEVELS / 3
        if is_border.any():
            is_border[is_border] = np.quantile(off[is_border], 0.97, axis=1) < _BORDER_LEVELS
        if not is_border.all():
            return done + int(is_border.argmin())
        done, count = done + count, 2 * count
    return len(rows)
