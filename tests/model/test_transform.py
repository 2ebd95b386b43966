"""The evaluation pixels are Pillow's, bit for bit, for sizes worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels, scale_and_shift


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 10_007 + height).integers(0, 256, (height, width, 3), np.uint8)


# image width, height -> resized width, height -> left, top of the crop; halves round to even, as torchvision's do
CROPS = [
    ((500, 375), (341, 256), (58, 16)),  # (341 - 224) / 2 = 58.5 -> 58
    ((375, 500), (256, 341), (16, 58)),
    ((400, 300), (341, 256), (58, 16)),
    ((499, 301), (424, 256), (100, 16)),  # 424.4 is cut off
    ((350, 301), (297, 256), (36, 16)),  # 297.7 is cut off
    ((301, 350), (256, 297), (16, 36)),
    ((501, 375), (342, 256), (59, 16)),
    ((343, 256), (343, 256), (60, 16)),  # 59.5 -> 60
    ((256, 256), (256, 256), (16, 16)),
    ((33, 57), (256, 442), (16, 109)),
    ((1, 1), (256, 256), (16, 16)),
    ((2, 3), (256, 384), (16, 80)),
    ((1, 7), (256, 1792), (16, 784)),
    ((2500, 90), (7111, 256), (3444, 16)),  # 3443.5 -> 3444
]


@pytest.mark.parametrize(("size", "resized", "corner"), CROPS)
def test_crop_is_pillows_resize_and_centre_crop(size, resized, corner):
    image = picture(*size)
    left, top = corner
    expected = Image.fromarray(image).resize(resized, Image.Resampling.BICUBIC)
    expected = expected.crop((left, top, left + 224, top + 224))
    found = evaluation_pixels(image, EvalTransform())
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize(
    ("size_px", "crop_pct", "resize_px"), [(224, 0.875, 256), (288, 0.95, 303), (96, 1.0, 96), (32, 0.875, 36)]
)
def test_short_side_is_the_size_over_the_crop(size_px, crop_pct, resize_px):
    transform = EvalTransform(size_px=size_px, crop_pct=crop_pct)
    assert transform.resize_px == resize_px
    assert evaluation_pixels(picture(70, 51), transform).shape == (size_px, size_px, 3)


@pytest.mark.parametrize("size", [(500, 375), (31, 77), (1, 1)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_squash_resizes_the_whole_image(size, interpolation):
    image = picture(*size)
    expected = Image.fromarray(image).resize((384, 384), Image.Resampling[interpolation.upper()])
    found = evaluation_pixels(image, EvalTransform(size_px=384, mode="squash", interpolation=interpolation))
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_a_strip_is_resampled_inside_the_crop_alone():
    """1 x 9000 pixels resized whole would be 256 x 2,304,000: 1.8 GB."""
    colours = np.linspace(0, 255, 9000).astype(np.uint8)
    strip = np.repeat(colours[:, None, None], 3, axis=2)
    found = evaluation_pixels(strip, EvalTransform())
    assert found.shape == (224, 224, 3)
    assert abs(int(found[112, 112, 0]) - int(colours[4500])) <= 1


def test_both_ways_of_cropping_agree(monkeypatch):
    image = picture(500, 375)
    whole = evaluation_pixels(image, EvalTransform())
    monkeypatch.setattr("convnext_imagenet.model.transform.LARGEST_RESIZED_PX", 0)
    inside = evaluation_pixels(image, EvalTransform())
    assert np.abs(whole.astype(int) - inside).max() <= 1


def test_pixels_may_be_written_to():
    assert evaluation_pixels(picture(40, 30), EvalTransform(size_px=32)).flags.writeable


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=["gray", "RGBA", "empty", "float"],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ModelError, match="RGB as uint8"):
        evaluation_pixels(image, EvalTransform())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size_px", 0),
        ("crop_pct", 0.0),
        ("crop_pct", 1.1),
        ("mode", "stretch"),
        ("interpolation", "nearest"),
        ("mean", (0.5,)),
        ("std", (0.2, 0.2, 0.0)),
    ],
)
def test_a_transform_out_of_range_is_refused(field, value):
    with pytest.raises(ModelError) as caught:
        EvalTransform(**{field: value})
    assert f"{field} is {value!r}" in str(caught.value)


def test_photographs(shared_data: Path) -> None:
    for path in sorted((shared_data / "fullsize" / "train").glob("*/*.JPEG"))[::50]:
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        width, height = (max(256, int(side * scale)) for side in image.size)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
        np.testing.assert_array_equal(
            evaluation_pixels(np.asarray(image), EvalTransform()), expected, err_msg=path.name
        )


def test_scale_and_shift_normalise_pixels_by_mean_and_std():
    transform = EvalTransform(mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    scale_C, shift_C = scale_and_shift(transform)
    assert (scale_C.dtype, shift_C.dtype) == (np.float32, np.float32)
    assert (51 * scale_C + shift_C).tolist() == pytest.approx([0.2, -0.6, -3.2])
