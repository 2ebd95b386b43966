"""The operations in the graph against those on the host: levels and blends bit by bit, resampling within a bound."""

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from convnext_imagenet.train.augment.randaugment import Op, as_arrays
from convnext_imagenet.train.augment.randaugment_device import DeviceRandAugment
from convnext_imagenet.train.augment.randaugment_host import apply_ops

ARGUMENTS: dict[Op, tuple[float, ...]] = {
    Op.NONE: (0,),
    Op.AUTO_CONTRAST: (0,),
    Op.EQUALIZE: (0,),
    Op.INVERT: (0,),
    Op.POSTERIZE: (0, 1, 3),
    Op.SOLARIZE: (0, 26, 256),
    Op.SOLARIZE_ADD: (0, 99),
    Op.COLOR: (0.1, 0.19, 1.81),
    Op.CONTRAST: (0.1, 0.19, 1.81),
    Op.BRIGHTNESS: (0.1, 0.19, 1.81),
    Op.SHARPNESS: (0.1, 0.19, 1.81),
    Op.ROTATE: (-30.0, -0.37, 27.0),
    Op.SHEAR_X: (-0.3, 0.27),
    Op.SHEAR_Y: (-0.3, 0.27),
    Op.TRANSLATE_X: (-0.45, 0.405),
    Op.TRANSLATE_Y: (-0.45, 0.405),
}
AFFINE = {Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y}
CASES = [(op, argument) for op, arguments in ARGUMENTS.items() for argument in arguments]
SIZE_PX = 40
# Largest mean difference in levels, and largest share of pixels that differ by more than one level: float32 places
# against float64 move a pixel at the border of the image in or out of it.
MOST_MEAN, MOST_OFF = 0.01, 0.001


@pytest.fixture(scope="module")
def cell() -> DeviceRandAugment:
    return DeviceRandAugment()


def _batch(seed: int) -> np.ndarray:
    """One image for each case: noise, smooth ones, dark ones and one of a single colour, in turn."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(len(CASES)):
        coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))
        noise = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        images.append([smooth, noise, smooth // 5 + 20, np.full_like(smooth, 90)][(number + seed) % 4])
    return np.stack(images).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_every_operation_is_the_hosts(cell: DeviceRandAugment, seed: int) -> None:
    pixels = _batch(seed)
    ids, arguments = as_arrays([((op, argument),) for op, argument in CASES])
    found = cell(Tensor(pixels), Tensor(ids), Tensor(arguments)).asnumpy()
    np.testing.assert_array_equal(found, np.rint(found))
    for image, result, (op, argument) in zip(pixels, found, CASES, strict=True):
        difference = np.abs(result - apply_ops(image, ((op, argument),)))
        if op not in AFFINE:
            assert difference.max() == 0, f"{op.name} {argument}"
        else:
            assert difference.mean() <= MOST_MEAN, f"{op.name} {argument}"
            assert (difference > 1).mean() <= MOST_OFF, f"{op.name} {argument}"


@pytest.mark.slow
def test_layers_follow_one_another(cell: DeviceRandAugment) -> None:
    pixels = _batch(1)[:4]
    drawn = [
        ((Op.EQUALIZE, 0.0), (Op.COLOR, 0.3)),
        ((Op.NONE, 0.0), (Op.NONE, 0.0)),
        ((Op.SHARPNESS, 1.8), (Op.POSTERIZE, 2.0)),
        ((Op.CONTRAST, 0.2), (Op.AUTO_CONTRAST, 0.0)),
    ]
    ids, arguments = as_arrays(drawn)
    found = cell(Tensor(pixels), Tensor(ids), Tensor(arguments)).asnumpy()
    expected = np.stack([apply_ops(image, ops) for image, ops in zip(pixels, drawn, strict=True)])
    np.testing.assert_array_equal(found, expected)
