"""The affine transform against Pillow, bit by bit; the other operations are in tests/train/test_randaugment_host.py."""

import math

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.model import pixel_ops as module
from convnext_imagenet.model.kernels.build import kernels_library
from convnext_imagenet.model.pixel_ops import PIXEL_OP, Kind, apply_pixel_ops

Matrix = tuple[float, ...]

FILL = (124, 116, 104)


def _pillow(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    image = Image.fromarray(pixels)
    result = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)
    return np.asarray(result)


def _rotation(degrees: float, height: int, width: int) -> Matrix:
    cosine, sine, x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), width / 2, height / 2
    return cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y


def _matrices(height: int, width: int) -> list[Matrix]:
    rng = np.random.default_rng(0)
    plain = [
        (1, 0, 0, 0, 1, 0),
        (1, 0.3, 0, 0, 1, 0),
        (1, 0, 0, -0.27, 1, 0),
        (1, 0, 5.25, 0, 1, 0),
        (1, 0, 0, 0, 1, -3),
    ]
    turned = [_rotation(degrees, height, width) for degrees in (-30, -0.1, 7.7, 90, 180)]
    wild = [tuple(rng.normal(0, 1.5, 6) * (1, 1, width, 1, 1, height)) for _ in range(5)]
    far = [(1.0, 0.0, 1e9, 0.0, 1.0, 0.0), (0.0, 0.0, 0.5, 0.0, 0.0, 0.5)]
    return [tuple(map(float, matrix)) for matrix in (*plain, *turned, *wild, *far)]


def _images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    sides = [(1, 1), (2, 3), (3, 1), (37, 50), (64, 64)]
    noise = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sides]
    return [*noise, (noise[-1] > 127).astype(np.uint8) * 255, np.full((20, 30, 3), 77, np.uint8)]


def _affine(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    op = np.zeros((1, 1), PIXEL_OP)
    op["kind"], op["matrix"], op["fill"][..., :3] = Kind.AFFINE, matrix, FILL
    result = pixels[None].copy()
    assert apply_pixel_ops(result, op)
    return result[0]


@pytest.mark.skipif(kernels_library() is None, reason="no kernels on this machine")
def test_every_bit_of_an_affine_transform_is_pillows() -> None:
    for pixels in _images():
        for matrix in _matrices(*pixels.shape[:2]):
            found = _affine(pixels, matrix)
            np.testing.assert_array_equal(found, _pillow(pixels, matrix), err_msg=f"{pixels.shape} {matrix}")


def test_without_kernels_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kernel", lambda: None)
    op = np.zeros((1, 1), PIXEL_OP)
    op["kind"] = Kind.TABLE
    pixels = np.full((1, 2, 2, 3), 9, np.uint8)
    assert not apply_pixel_ops(pixels, op)
    assert (pixels == 9).all()
