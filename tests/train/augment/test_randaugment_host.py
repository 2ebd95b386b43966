"""Each operation against Pillow as timm calls it: no level of no pixel differs."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from convnext_imagenet.model import pixel_ops
from convnext_imagenet.train.augment.randaugment import Op
from convnext_imagenet.train.augment.randaugment_host import FILL_RGB, apply_ops, augment_images

BICUBIC = Image.Resampling.BICUBIC
ARGUMENTS: dict[Op, tuple[float, ...]] = {
    Op.AUTO_CONTRAST: (0,),
    Op.EQUALIZE: (0,),
    Op.INVERT: (0,),
    Op.ROTATE: (-30.0, -0.37, 11.3, 27.0),
    Op.POSTERIZE: (0, 1, 3, 4),
    Op.SOLARIZE: (0, 26, 255, 256),
    Op.SOLARIZE_ADD: (0, 99, 110),
    Op.COLOR: (0.1, 0.19, 1.0, 1.81, 1.9),
    Op.CONTRAST: (0.1, 0.19, 1.0, 1.81, 1.9),
    Op.BRIGHTNESS: (0.1, 0.19, 1.0, 1.81, 1.9),
    Op.SHARPNESS: (0.1, 0.19, 1.0, 1.81, 1.9),
    Op.SHEAR_X: (-0.3, 0.27),
    Op.SHEAR_Y: (-0.3, 0.27),
    Op.TRANSLATE_X: (-0.45, 0.405),
    Op.TRANSLATE_Y: (-0.45, 0.405),
}


def pillow(image: Image.Image, op: Op, argument: float) -> Image.Image:
    """The operation as timm 1.0 asks Pillow for it."""
    enhancers = {
        Op.COLOR: ImageEnhance.Color,
        Op.CONTRAST: ImageEnhance.Contrast,
        Op.BRIGHTNESS: ImageEnhance.Brightness,
        Op.SHARPNESS: ImageEnhance.Sharpness,
    }
    matrices = {
        Op.SHEAR_X: (1, argument, 0, 0, 1, 0),
        Op.SHEAR_Y: (1, 0, 0, argument, 1, 0),
        Op.TRANSLATE_X: (1, 0, argument * image.width, 0, 1, 0),
        Op.TRANSLATE_Y: (1, 0, 0, 0, 1, argument * image.height),
    }
    if op in enhancers:
        return enhancers[op](image).enhance(argument)
    if op in matrices:
        return image.transform(image.size, Image.Transform.AFFINE, matrices[op], BICUBIC, fillcolor=FILL_RGB)
    if op == Op.ROTATE:
        return image.rotate(argument, BICUBIC, fillcolor=FILL_RGB)
    if op == Op.SOLARIZE_ADD:
        return image.point([min(255, level + int(argument)) if level < 128 else level for level in range(256)] * 3)
    if op == Op.POSTERIZE and argument == 0:  # black; Pillow 13 refuses to keep no bit, older ones gave this
        return Image.new("RGB", image.size)
    plain = {Op.AUTO_CONTRAST: ImageOps.autocontrast, Op.EQUALIZE: ImageOps.equalize, Op.INVERT: ImageOps.invert}
    if op in plain:
        return plain[op](image)
    return {Op.POSTERIZE: ImageOps.posterize, Op.SOLARIZE: ImageOps.solarize}[op](image, int(argument))


def _images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((61, 53), BICUBIC))
    return {
        "noise": rng.integers(0, 256, (48, 64, 3), dtype=np.uint8),
        "smooth": smooth,
        "dark": (smooth // 5 + 20).astype(np.uint8),
        "one colour": np.full((32, 32, 3), (10, 200, 90), np.uint8),
        "two levels": (rng.random((20, 20, 3)) < 0.01).astype(np.uint8) * 255,
        "one pixel": np.full((1, 1, 3), 7, np.uint8),
        "thin": rng.integers(0, 256, (2, 40, 3), dtype=np.uint8),
    }


@pytest.mark.parametrize("name", _images())
@pytest.mark.parametrize("op", ARGUMENTS)
def test_every_operation_is_pillows(op: Op, name: str) -> None:
    pixels = _images()[name]
    for argument in ARGUMENTS[op]:
        expected = np.asarray(pillow(Image.fromarray(pixels), op, argument))
        np.testing.assert_array_equal(apply_ops(pixels, ((op, argument),)), expected, err_msg=f"{op.name} {argument}")
        chunk = np.stack([pixels, pixels[::-1], pixels])
        augment_images(chunk, [((op, argument),), (), ((Op.NONE, 0.0), (op, argument))])
        for found, wanted in zip(chunk, (expected, pixels[::-1], expected), strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=f"{op.name} {argument}")


def test_all_operations_are_tested() -> None:
    assert ARGUMENTS.keys() | {Op.NONE} == set(Op)


def test_operations_follow_one_another_and_the_input_stays() -> None:
    pixels = _images()["smooth"]
    before = pixels.copy()
    drawn = ((Op.ROTATE, 20.0), (Op.NONE, 0.0), (Op.EQUALIZE, 0.0))
    expected = ImageOps.equalize(pillow(Image.fromarray(pixels), Op.ROTATE, 20.0))
    np.testing.assert_array_equal(apply_ops(pixels, drawn), np.asarray(expected))
    np.testing.assert_array_equal(pixels, before)
    assert apply_ops(pixels, ()) is pixels


def test_without_kernels_images_are_augmented_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_ops, "_kernel", lambda: None)
    pixels = _images()["smooth"]
    drawn = ((Op.ROTATE, 20.0), (Op.COLOR, 1.7))
    chunk = np.stack([pixels, pixels])
    augment_images(chunk, [(), drawn])
    np.testing.assert_array_equal(chunk[0], pixels)
    np.testing.assert_array_equal(chunk[1], apply_ops(pixels, drawn))


def test_photographs_too(shared_data) -> None:
    paths = sorted((shared_data / "fullsize" / "train").glob("*/*.JPEG"))[::60]
    for path in paths:
        image = Image.open(path).convert("RGB").resize((224, 224), BICUBIC)
        for op, arguments in ARGUMENTS.items():
            found = apply_ops(np.asarray(image), ((op, arguments[-1]),))
            np.testing.assert_array_equal(found, np.asarray(pillow(image, op, arguments[-1])), err_msg=op.name)
