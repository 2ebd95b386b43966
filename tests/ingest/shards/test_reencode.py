"""Images made smaller: sides, modes, and the same bytes each time."""

import io

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.ingest.shards.decode_worker import DecodeOptions, decode
from convnext_imagenet.ingest.shards.image_policy import Conversion, ImagePolicy, Reencoding, largest_reencoded_bytes
from convnext_imagenet.ingest.shards.reencode import convert, fitted_sides, reencode
from convnext_imagenet.records.image_headers import BadImage, ImageInfo
from convnext_imagenet.records.images import check_image

HOW = Reencoding(max_side_px=24, quality=90)


def _encoded(mode: str, kind: str, size: tuple[int, int], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(48, 24, (24, 12)), (24, 48, (12, 24)), (100, 3, (24, 1)), (5000, 1, (24, 1)), (25, 25, (24, 24))],
)
def test_the_longer_side_fits_and_the_proportion_stays(width, height, expected):
    assert fitted_sides(width, height, 24) == expected


@pytest.mark.parametrize(
    ("mode", "kind", "stored"),
    [("RGB", "JPEG", "RGB"), ("L", "JPEG", "L"), ("CMYK", "JPEG", "RGB"), ("P", "PNG", "RGB"), ("RGBA", "PNG", "RGB")],
)
def test_gray_stays_gray_and_the_rest_becomes_rgb(mode, kind, stored):
    image = _encoded(mode, kind, (48, 30))
    smaller, info = reencode(image, check_image(image), HOW)
    assert info == ImageInfo("jpeg", stored, 24, 15) == check_image(smaller)
    assert reencode(image, check_image(image), HOW)[0] == smaller


def test_images_within_the_limit_are_kept():
    image = _encoded("RGB", "PNG", (24, 24))
    assert reencode(image, check_image(image), HOW) is None


def test_pixels_stay_near():
    image = _encoded("L", "JPEG", (96, 96), quality=95)
    smaller, _ = reencode(image, check_image(image), Reencoding(48, 95))
    expected = np.asarray(Image.open(io.BytesIO(image)).resize((48, 48)), int)
    assert np.abs(np.asarray(Image.open(io.BytesIO(smaller)), int) - expected).mean() < 2


def test_orientation_in_exif_is_ignored_and_dropped():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = _encoded("RGB", "JPEG", (48, 24), exif=exif.tobytes())
    smaller, info = reencode(image, check_image(image), HOW)
    assert (info.width, info.height) == (24, 12)
    assert not Image.open(io.BytesIO(smaller)).getexif()


def test_an_image_that_becomes_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("convnext_imagenet.ingest.shards.reencode.largest_reencoded_bytes", lambda how: 10)
    image = _encoded("RGB", "JPEG", (48, 24))
    with pytest.raises(BadImage, match=r"too_large: .*--quality"):
        reencode(image, check_image(image), HOW)


def test_pages_have_room_for_the_worst_image():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    how = Reencoding(max_side_px=63, quality=100)
    smaller, _ = reencode(buffer.getvalue(), check_image(buffer.getvalue()), how)
    assert len(smaller) < largest_reencoded_bytes(how) == ImagePolicy(reencoding=how).largest_row_bytes(5)
    assert ImagePolicy().largest_row_bytes(5) == 5


@pytest.mark.parametrize(
    ("mode", "kind", "stored"),
    [("RGB", "BMP", "RGB"), ("P", "GIF", "RGB"), ("L", "TIFF", "L"), ("I;16", "TIFF", "L"), ("RGB", "AVIF", "RGB")],
)
def test_other_kinds_are_converted_without_loss_or_as_jpeg(mode: str, kind: str, stored: str):
    image = _encoded(mode, kind, (48, 30))
    with Image.open(io.BytesIO(image)) as opened:
        first = opened.point(lambda value: value / 256) if mode == "I;16" else opened
        expected = np.asarray(first.convert(stored))
    lossless, jpeg = (decode(image, False, DecodeOptions(1 << 30, conversion=how)) for how in CONVERSIONS)
    assert lossless.info == ImageInfo("png", stored, 48, 30)
    assert jpeg.info == ImageInfo("jpeg", stored, 48, 30)
    assert lossless.is_reencoded
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(lossless.image))), expected)
    assert decode(image, False, DecodeOptions(1 << 30)).reason == "unsupported"


@pytest.mark.parametrize("pixels", [np.linspace(0, 1, 768, dtype=np.float32), np.arange(768, dtype=np.int32) * 1000])
def test_pixels_of_an_unknown_range_are_not_made_black_or_white(pixels: np.ndarray):
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(24, 32)).save(buffer, "TIFF")
    for how in CONVERSIONS:
        refused = decode(buffer.getvalue(), False, DecodeOptions(1 << 30, conversion=how))
        assert (refused.reason, refused.detail[:16]) == ("unsupported", "TIFF of 32 bits,")


CONVERSIONS = (Conversion(), Conversion(90))


def test_what_is_stored_anyway_is_not_converted_and_damage_is_said():
    for kind in ("JPEG", "PNG", "WEBP"):
        image = _encoded("RGB", kind, (24, 24))
        assert convert(image, Conversion()) is None
        assert decode(image, False, DecodeOptions(1 << 30, conversion=Conversion())).image == image
    cut = _encoded("RGB", "TIFF", (48, 48))[:-500]
    refused = decode(cut, False, DecodeOptions(1 << 30, conversion=Conversion()))
    assert refused.reason in ("damaged", "unsupported")
    assert "conversion" not in ImagePolicy().to_json()
    assert ImagePolicy(conversion=Conversion(80)).to_json()["conversion"] == {"quality": 80}


def test_a_jpeg_above_the_limit_of_pixels_is_stored_only_if_it_is_shrunk():
    image = _encoded("RGB", "JPEG", (9_000, 8_000))
    assert decode(image, False, DecodeOptions(1 << 30)).reason == "dimensions"
    stored = decode(image, False, DecodeOptions(1 << 30, Reencoding(1_000, 90)))
    assert (stored.info.width, stored.info.height, stored.is_reencoded) == (1_000, 889, True)
    expected = np.asarray(Image.radial_gradient("L").resize((1_000, 889)), int)
    found = np.asarray(Image.open(io.BytesIO(stored.image)).convert("L"), int)
    assert np.abs(found - expected).mean() < 2
    assert decode(image, False, DecodeOptions(1 << 30, Reencoding(8_999, 90))).reason == "dimensions"
