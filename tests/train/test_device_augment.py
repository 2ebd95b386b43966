"""The device cells against NumPy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from convnext_imagenet.train.device_augment import DeviceAugment, SoftTargets

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def oracle(pixels: np.ndarray, flip: np.ndarray) -> np.ndarray:
    out = np.empty(pixels.shape)
    for n in range(len(pixels)):
        image = pixels[n, :, ::-1] if flip[n] else pixels[n]
        out[n] = (image / 255.0 - np.array(MEAN)) / np.array(STD)
    return out


@pytest.mark.parametrize("shape", [(5, 8, 6, 3), (1, 4, 4, 3), (4, 3, 1, 3)])
def test_pixels_are_mirrored_and_normalised(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    flip = np.arange(shape[0]) % 2 == 0
    result = DeviceAugment(MEAN, STD)(Tensor(pixels), Tensor(flip))
    assert result.dtype == ms.float32
    np.testing.assert_allclose(result.asnumpy(), oracle(pixels, flip), rtol=0, atol=2e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_smoothed_as_in_timm(smoothing: float) -> None:
    labels = np.array([3, 0, 4], np.int32)
    result = SoftTargets(5, smoothing)(Tensor(labels)).asnumpy()
    expected = np.full((3, 5), smoothing / 5)
    expected[np.arange(3), labels] = 1 - smoothing + smoothing / 5
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    np.testing.assert_allclose(result.sum(1), 1, rtol=1e-6)
