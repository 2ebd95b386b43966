"""The small gray picture of an image, 48 x 48, by which an audit finds copies: from pixels, or from DCT coefficients.

A JPEG holds for each 8 x 8 block of its luminance the coefficients of a cosine transform. The mean of any part of the
image is a weighted sum of these, and the lowest frequencies are enough for parts that are not much smaller than a
block. So the picture needs no decoding. All sums are of multiples of 2**-19 below 2**34, which float64 holds exactly in
any order: every machine makes the same bytes. Knows nothing of files and of libjpeg.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

SMALL_PX = 48
BLOCK_PX = 8
_WEIGHT_BITS = 8
_OF_A_BLOCK = 1 / BLOCK_PX  # the mean of a block is this part of its first coefficient
_RUNS = {1: np.int16, 2: np.int32, 4: np.int64, 8: np.complex128}  # as wide as so many coefficients; only moved
_LEAST_PX = 40  # a side has this many samples at least, if it has the pixels


class Luminance(NamedTuple):
    """The lowest frequencies of the luminance of a JPEG, `count` along each side of a block, as they are quantised.

    `coefficients` is int16 (rows, count, columns * count): by row of blocks, vertical frequency, column of blocks and
    horizontal frequency. `quantiser` has the 64 steps, row by row, as uint16. `height` and `width` are those of the
    image in pixels: the last blocks may reach beyond them.
    """

    coefficients: np.ndarray
    quantiser: bytes
    height: int
    width: int


def lowest_frequencies(blocks: memoryview, pitch: int, quantiser: bytes, height: int, width: int) -> Luminance:
    """Return a copy of what the small picture needs of all coefficients.

    `blocks` has 64 int16 for each block, row by row, and rows of blocks that begin every `pitch` bytes.
    """
    count = _frequencies(min(height, width))
    # Neighbouring frequencies move as one value: four times as fast as one at a time.
    shape = (-(-height // BLOCK_PX), count, -(-width // BLOCK_PX))
    found: np.ndarray = np.ndarray(shape, _RUNS[count], blocks, 0, (pitch, 2 * BLOCK_PX, 2 * BLOCK_PX * BLOCK_PX))
    return Luminance(found.copy().view(np.int16), quantiser, height, width)


def shrink(gray: np.ndarray) -> np.ndarray:
    """Return the small picture of gray pixels, uint8 (height, width), as uint8 (48, 48)."""
    return cv2.resize(gray, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA)


def small_picture(image: Luminance) -> np.ndarray:
    """Return about what `shrink` makes of the decoded luminance, uint8 (48, 48)."""
    rows, count, width = image.coefficients.shape
    steps = np.frombuffer(image.quantiser, np.uint16).reshape(BLOCK_PX, 1, BLOCK_PX)[:count, :, :count] * _OF_A_BLOCK
    factors = steps[0, 0, 0] if count == 1 else np.repeat(steps, width // count, axis=1).reshape(count, width)
    levels = (image.coefficients * factors).reshape(rows * count, width)
    means = _weights(image.height, count) @ levels @ _weights_across(image.width, count)
    means += 128.5
    return np.maximum(np.minimum(means, 255, out=means), 0, out=means).astype(np.uint8)


def _frequencies(shorter_px: int) -> int:
    """Return how many frequencies along each side of a block are used: few for a large image, all for a small one."""
    for count in (1, 2, 4):
        if shorter_px * count >= BLOCK_PX * _LEAST_PX:
            return count
    return BLOCK_PX


@lru_cache(maxsize=512)
def _weights(side_px: int, count: int) -> np.ndarray:
    """Return the weights from the coefficients along a side to the means of its 48 parts, float64 (48, blocks * count).

    They are multiples of 2**-8; those of the means of blocks add up to 1 in each part.
    """
    blocks = -(-side_px // BLOCK_PX)
    edges = np.arange(SMALL_PX + 1) * side_px / SMALL_PX
    pixels = np.arange(blocks * BLOCK_PX)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    parts = inside.clip(0) / (side_px / SMALL_PX)  # (48, pixels): the share of each pixel in each part
    waves = np.cos(np.pi * (2 * np.arange(BLOCK_PX)[:, None] + 1) * np.arange(count) / (2 * BLOCK_PX))
    waves[:, 1:] *= np.sqrt(2)
    exact = (parts.reshape(SMALL_PX, blocks, BLOCK_PX) @ waves) * 2.0**_WEIGHT_BITS  # (48, blocks, count)
    whole = np.rint(exact)
    # The rounded weights of the means are made to add up again, so that a flat image keeps its level.
    ends = np.rint(np.cumsum(exact[:, :, 0], 1))
    whole[:, :, 0] = np.diff(ends, axis=1, prepend=0)
    return whole.reshape(SMALL_PX, blocks * count) * 2.0**-_WEIGHT_BITS


@lru_cache(maxsize=512)
def _weights_across(side_px: int, count: int) -> np.ndarray:
    return np.ascontiguousarray(_weights(side_px, count).T)
