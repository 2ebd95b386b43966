"""Holes of zeros are found where no image has them, and nowhere else."""

import io

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.records.jpeg_holes import LEAST_HOLE_BYTES, find_hole


def _encode(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
FLAT = np.full((3000, 3000, 3), 255, np.uint8)  # with tables of its own, its blocks are zeros
PLAIN, FLAT_OPTIMIZED = _encode(NOISE), _encode(FLAT, optimize=True)
ZEROS = bytes(LEAST_HOLE_BYTES)
HALF = len(PLAIN) // 2


def test_a_flat_image_may_be_coded_as_zeros():
    assert FLAT_OPTIMIZED.count(ZEROS)
    assert find_hole(FLAT_OPTIMIZED) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PLAIN, None),
        (PLAIN[:HALF] + ZEROS + PLAIN[HALF + len(ZEROS) :], HALF),
        (PLAIN[:HALF] + ZEROS[1:] + b"\1" + PLAIN[HALF + len(ZEROS) :], None),
        (PLAIN[:2] + b"\xff\xe1" + (600).to_bytes(2, "big") + b"\xff\xda" + bytes(596) + PLAIN[2:], None),
        (PLAIN + ZEROS, None),
        (_encode(NOISE, progressive=True).replace(b"\xff\xd9", ZEROS + b"\xff\xd9"), None),
        (_encode(NOISE[..., 0]).replace(b"\xff\xd9", ZEROS + b"\xff\xd9"), len(_encode(NOISE[..., 0])) - 2),
        (PLAIN[:40], None),
        (b"\xff\xda" + ZEROS, None),
    ],
    ids=["whole", "hole", "shorter", "in a header", "after the end", "progressive", "gray", "cut", "no jpeg"],
)
def test_a_hole_is_found_in_a_sequential_scan_only(data: bytes, expected: int | None):
    assert find_hole(data) == expected
