"""The small picture of a JPEG from its coefficients: about that of its pixels, exact in its sums, or none."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.records.images import check_image_and_luminance
from convnext_imagenet.records.jpeg_warnings import require_pictures
from convnext_imagenet.records.small_picture import _LEAST_PX, _weights, lowest_frequencies, shrink, small_picture


def _scene(width, height, seed=0):
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def _jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def _picture(data):
    light = check_image_and_luminance(data, accept_warnings=True)[1]
    return None if light is None else small_picture(light)


def _of_pixels(data):
    return shrink(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE))


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (501, 374), (333, 1000), (1600, 1203), (96, 96), (47, 61), (9, 7)]
)
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 50}], ids=str
)
def test_the_picture_is_about_that_of_the_pixels(width, height, options):
    data = _jpeg(_scene(width, height), **options)
    off = np.abs(_picture(data).astype(int) - _of_pixels(data))
    assert off.mean() < 2.5
    assert off.max() <= 20


def test_gray_and_restart_markers_make_no_difference():
    scene = _scene(320, 240).convert("L")
    data = _jpeg(scene)
    marked = cv2.imencode(".jpg", np.asarray(scene), [cv2.IMWRITE_JPEG_RST_INTERVAL, 3])[1].tobytes()
    for each in (data, marked):
        assert np.abs(_picture(each).astype(int) - _of_pixels(each)).max() <= 20


@pytest.mark.parametrize("level", [0, 3, 128, 200, 255])
@pytest.mark.parametrize("size", [(500, 375), (97, 61)])
def test_a_flat_image_keeps_its_level(level, size):
    picture = _picture(_jpeg(Image.new("L", size, level), quality=100))
    assert np.unique(picture).tolist() == [level]


def test_there_is_none_without_luminance():
    scene = _scene(200, 150)
    buffer = io.BytesIO()
    scene.save(buffer, "PNG")
    for data in (
        _jpeg(scene.convert("CMYK")),
        _jpeg(scene, keep_rgb=True),
        _jpeg(scene, subsampling=0).replace(b"\x01\x11\x00\x02\x11\x01", b"\x01\x11\x00\x02\x22\x01"),
        buffer.getvalue(),
    ):
        assert _picture(data) is None


def test_it_is_made_only_if_wanted():
    assert check_image_and_luminance(_jpeg(_scene(200, 150)), wants_luminance=False)[1] is None


@pytest.mark.parametrize(("side", "count"), [(500, 1), (375, 1), (333, 2), (100, 8), (30_000, 1), (7, 8)])
def test_weights_are_whole_and_add_up(side, count):
    weights = _weights(side, count) * 256
    assert np.array_equal(weights, np.rint(weights))
    assert (weights.reshape(48, -1, count)[:, :, 0].sum(1) == 256).all()


def test_sums_are_exact_so_every_machine_has_the_same_bytes():
    """Multiples of 2**-19 below 2**34: float64 holds each partial sum, whatever the order of the products."""
    rng = np.random.default_rng(1)
    for height, width in ((375, 500), (96, 96), (2000, 3000)):
        blocks = rng.integers(-32768, 32768, (-(-height // 8), -(-width // 8), 64)).astype(np.int16)
        steps = rng.integers(1, 65535, 64).astype(np.uint16)
        pitch = blocks.strides[0]
        found = small_picture(lowest_frequencies(memoryview(blocks), pitch, steps.tobytes(), height, width))
        count = next(count for count in (1, 2, 4, 8) if count == 8 or min(height, width) * count >= 8 * _LEAST_PX)
        levels = (blocks.astype(np.int64) * steps).reshape(*blocks.shape[:2], 8, 8)
        levels = levels[:, :, :count, :count].transpose(0, 2, 1, 3).reshape(len(blocks) * count, -1)
        vertical, horizontal = ((_weights(side, count) * 256).astype(np.int64) for side in (height, width))
        sums = vertical @ levels @ horizontal.T
        assert np.array_equal(found, np.clip(np.floor(sums / 2**19 + 128.5), 0, 255).astype(np.uint8))
        assert np.abs(vertical).sum(1).max() * np.abs(horizontal).sum(1).max() * 2**31 < 2**53


def test_the_library_is_tested_before_the_first_image(monkeypatch):
    from convnext_imagenet.records import jpeg_warnings

    require_pictures()
    monkeypatch.setattr(jpeg_warnings, "luminance", lambda decoder, arrays: None)
    with pytest.raises(jpeg_warnings.JpegLibraryError, match="leave --fingerprints out"):
        require_pictures()
