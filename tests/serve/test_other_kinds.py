"""Images of other kinds than JPEG and PNG have the pixels of Pillow, within the same limits; turned ones say so."""

import gc
import io
import signal
import struct
import threading

import numpy as np
import pytest
from PIL import Image, ImageOps

from convnext_imagenet.records.image_headers import BadImage, PixelLimits
from convnext_imagenet.serve import other_kinds
from convnext_imagenet.serve.inputs.inputs import Item
from convnext_imagenet.serve.orientation import orientation_of, turned
from convnext_imagenet.serve.other_kinds import decode_other
from convnext_imagenet.serve.samples import Decoding, decode_image, read_sample

from .conftest import TRANSFORM, picture

WIDTH, HEIGHT = 40, 30


def _image(mode="RGB", seed=0):
    image = Image.open(io.BytesIO(picture(seed, WIDTH, HEIGHT)))
    return image.convert(mode)


def _bytes(form, image=None, **options):
    buffer = io.BytesIO()
    (image or _image()).save(buffer, form, **options)
    return buffer.getvalue()


def _frames(form):
    return _bytes(form, save_all=True, append_images=[_image(seed=1), _image(seed=2)])


KINDS = {
    "webp": (_bytes("WEBP", lossless=True), "webp", "RGB"),
    "webp animated": (_frames("WEBP"), "webp", "RGB"),
    "gif": (_bytes("GIF"), "gif", "P"),
    "gif animated": (_frames("GIF"), "gif", "P"),
    "bmp": (_bytes("BMP"), "bmp", "RGB"),
    "tiff": (_bytes("TIFF"), "tiff", "RGB"),
    "tiff cmyk": (_bytes("TIFF", _image("CMYK")), "tiff", "CMYK"),
    "tiff deflate": (_bytes("TIFF", compression="tiff_adobe_deflate"), "tiff", "RGB"),
    "avif": (_bytes("AVIF"), "avif", "RGB"),
    "jpeg 2000": (_bytes("JPEG2000"), "jpeg2000", "RGB"),
}


@pytest.mark.parametrize(("data", "form", "mode"), KINDS.values(), ids=KINDS)
def test_the_first_frame_has_the_pixels_of_pillow(data, form, mode):
    decoded = decode_image(data)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert (decoded.info.format, decoded.info.mode) == (form, mode)
    assert (decoded.info.width, decoded.info.height) == (WIDTH, HEIGHT)


def test_sixteen_bits_of_gray_keep_their_upper_eight():
    gray = np.arange(WIDTH * HEIGHT, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 54
    image = Image.fromarray(gray)
    for form in ("TIFF", "PNG"):
        pixels = decode_image(_bytes(form, image)).pixels
        np.testing.assert_array_equal(pixels[..., 0], gray >> 8)


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"GIF89a not really", "damaged", "Pillow"),
        (KINDS["webp"][0][:60], "damaged", "Pillow"),
        (KINDS["tiff"][0][:60], "damaged", "Pillow"),
        (_bytes("TIFF", Image.fromarray(np.zeros((3, 3), np.float32))), "damaged", "no agreed range"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported", r"convnext_imagenet\[heif\]"),
        (b"<html>", "unsupported", "neither JPEG, PNG nor WebP"),
        (b"RIFF\0\0\0\0WAVEfmt ", "unsupported", "neither JPEG, PNG nor WebP"),
    ],
)
def test_what_cannot_be_decoded_says_why(data, reason, says):
    with pytest.raises(BadImage, match=says) as caught:
        decode_image(data)
    assert caught.value.reason == reason


def _bomb():
    """A BMP whose header claims 20,000 x 20,000 pixels."""
    data = bytearray(KINDS["bmp"][0])
    data[18:26] = struct.pack("<ii", 20_000, 20_000)
    return bytes(data)


@pytest.mark.parametrize("data", [_bomb(), _bytes("WEBP", Image.new("L", (16_000, 4_001)))])
def test_too_many_pixels_are_refused_with_their_sides_before_they_are_decoded(data):
    sample = read_sample(Item("bomb", lambda: data), 0, TRANSFORM)
    assert sample.status == "too_large"
    assert sample.info.width * sample.info.height > 64_000_000
    assert "64000000 pixels are decoded" in sample.error


@pytest.mark.parametrize(("most", "status"), [(720_000, "ok"), (719_999, "too_large")])
def test_a_panorama_is_scored_if_the_user_allows_its_pixels(most, status):
    panorama = _bytes("JPEG", Image.new("RGB", (1_200, 600)))
    sample = read_sample(Item("x", lambda: panorama), 0, TRANSFORM, Decoding(PixelLimits(most, 65_535)))
    assert (sample.status, sample.info.width, sample.info.height) == (status, 1_200, 600)


def test_a_decoder_that_crashes_or_hangs_costs_one_image():
    data = KINDS["bmp"][0]
    expected = decode_image(data).pixels
    worker = other_kinds._threads.worker
    worker.process.kill()
    with pytest.raises(BadImage, match="the decoder process died"):
        worker.decode(data, ("BMP",), PixelLimits(), 60)
    np.testing.assert_array_equal(decode_image(data).pixels, expected)


def test_a_decoder_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(other_kinds, "_GRACE_S", 0.0)
    decode_image(KINDS["bmp"][0])
    other_kinds._threads.worker.process.send_signal(signal.SIGSTOP)
    with pytest.raises(BadImage, match=r"decoding took longer than 0\.2 s") as caught:
        decode_other(KINDS["bmp"][0], ("BMP",), PixelLimits(), 0.2)
    assert caught.value.reason == "timeout"
    assert decode_other(KINDS["bmp"][0], ("BMP",), PixelLimits(), 60).info.width == WIDTH


def test_a_decoder_ends_with_its_thread():
    processes = []

    def decode() -> None:
        decode_image(KINDS["bmp"][0])
        processes.append(other_kinds._threads.worker.process)

    thread = threading.Thread(target=decode)
    thread.start()
    thread.join()
    gc.collect()
    (process,) = processes
    assert process.returncode == -signal.SIGKILL
    assert process.stdin.closed
    assert process.stdout.closed


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_found_and_applied_as_pillow_does(form, orientation):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", orientation
    data = _bytes(form, exif=exif)
    assert orientation_of(data) == orientation
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        stored = np.asarray(image)
    np.testing.assert_array_equal(turned(stored, orientation), expected)
    np.testing.assert_allclose(decode_image(data, Decoding(applies_exif=True)).pixels, expected, atol=3)
    np.testing.assert_allclose(decode_image(data).pixels, stored, atol=3)
    assert decode_image(data).orientation == orientation


def test_no_orientation_is_found_where_there_is_none():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _bytes("JPEG", exif=exif)
    assert orientation_of(picture(0)) is None
    assert orientation_of(_bytes("PNG")) is None
    start = data.index(b"Exif\0\0")
    for end in range(start + 30):
        assert orientation_of(data[:end]) in (None, 6)
    for place in range(start, start + 40):
        for value in (0, 0x7F, 0xFF):
            assert orientation_of(data[:place] + bytes([value]) + data[place + 1 :]) in (None, *range(1, 9))
