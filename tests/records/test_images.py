"""Image bytes: odd ones are accepted and named, damaged ones are refused with their reason."""

import io
import re
import struct
import zlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.records.image_headers import REASONS, BadImage, ImageInfo, Reason, inspect_image
from convnext_imagenet.records.images import check_image, decode_rgb

ROOT = Path(__file__).resolve().parents[2]


def _encode(mode: str, kind: str, size: tuple[int, int] = (13, 7), **options: object) -> bytes:
    gradient = Image.radial_gradient("L").resize(size)
    image = gradient.convert(mode)
    if mode == "RGBA":
        image.putalpha(gradient)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


ODDITIES = {
    "colour": (_encode("RGB", "JPEG"), ImageInfo("jpeg", "RGB", 13, 7)),
    "gray": (_encode("L", "JPEG"), ImageInfo("jpeg", "L", 13, 7)),
    "cmyk": (_encode("CMYK", "JPEG"), ImageInfo("jpeg", "CMYK", 13, 7)),
    "progressive": (_encode("RGB", "JPEG", progressive=True), ImageInfo("jpeg", "RGB", 13, 7)),
    "one pixel": (_encode("RGB", "JPEG", (1, 1)), ImageInfo("jpeg", "RGB", 1, 1)),
    "bytes after the end": (_encode("RGB", "JPEG") + b"\0\0junk", ImageInfo("jpeg", "RGB", 13, 7)),
    "png": (_encode("RGB", "PNG"), ImageInfo("png", "RGB", 13, 7)),
    "webp": (_encode("RGB", "WEBP", quality=80), ImageInfo("webp", "RGB", 13, 7)),
    "lossless webp": (_encode("RGB", "WEBP", lossless=True), ImageInfo("webp", "RGB", 13, 7)),
    "webp with alpha": (_encode("RGBA", "WEBP"), ImageInfo("webp", "RGBA", 13, 7)),
    "palette": (_encode("P", "PNG"), ImageInfo("png", "P", 13, 7)),
    "alpha": (_encode("RGBA", "PNG"), ImageInfo("png", "RGBA", 13, 7)),
}


@pytest.mark.parametrize("name", ODDITIES)
def test_oddities_are_accepted_and_named(name):
    data, expected = ODDITIES[name]
    assert check_image(data) == expected
    pixels = decode_rgb(data)
    assert pixels.shape == (expected.height, expected.width, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("name", ["colour", "gray", "cmyk", "progressive", "png", "palette", "webp", "lossless webp"])
def test_pixels_are_pillow_s(name):
    data = ODDITIES[name][0]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_rgb(data) - expected).max() <= 2


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encode("RGB", "JPEG", (16, 8), exif=exif.tobytes())
    assert decode_rgb(data).shape == (8, 16, 3)


@pytest.mark.parametrize("name", ["colour", "gray", "cmyk", "progressive", "png", "webp", "lossless webp"])
def test_every_truncation_is_refused(name):
    data = ODDITIES[name][0]
    for length in range(len(data)):
        with pytest.raises(BadImage):
            check_image(data[:length])


def _frame(data: bytes) -> int:
    return data.index(b"\xff\xc0")


def _with_sides(data: bytes, height: int, width: int) -> bytes:
    at = _frame(data) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _png_bomb() -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + _PNG_END


def _webp_with_sides(width: int, height: int) -> bytes:
    """A WebP whose frame claims other sides than its canvas."""
    data = bytearray(_encode("RGBA", "WEBP"))
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


_PNG_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
_COLOUR = ODDITIES["colour"][0]
_TWO_FRAMES = _COLOUR[: _frame(_COLOUR)] + _COLOUR[_frame(_COLOUR) : _frame(_COLOUR) + 19] + _COLOUR[_frame(_COLOUR) :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "unsupported"),
        (_encode("RGB", "GIF"), "unsupported"),
        (_encode("RGB", "WEBP", save_all=True, append_images=[Image.new("RGB", (13, 7))]), "unsupported"),
        (_webp_with_sides(60_000 >> 2, 4), "damaged"),
        (ODDITIES["webp"][0][:20] + b"\0" * 12 + ODDITIES["webp"][0][32:], "damaged"),
        (b"\xff\xd8\xff\xd9", "damaged"),
        (b"\xff\xd8", "truncated"),
        (_COLOUR[:-2], "truncated"),
        (_COLOUR[: len(_COLOUR) // 2], "truncated"),
        (_with_sides(_COLOUR, 30_000, 30_000), "dimensions"),
        (_with_sides(_COLOUR, 0, 13), "dimensions"),
        (_COLOUR[: _frame(_COLOUR) + 1] + b"\xc9" + _COLOUR[_frame(_COLOUR) + 2 :], "unsupported"),
        (_TWO_FRAMES, "damaged"),
        (_png_bomb(), "dimensions"),
        (ODDITIES["png"][0][:40] + b"\x00" + ODDITIES["png"][0][41:], "damaged"),
        (b"\xff\xd8" + b"\xff\xe1\0\2" * 5_000 + _COLOUR[2:], "damaged"),
        (b"\xff\xd8" + b"\xff\xd0" * 5_000 + _COLOUR[2:], "damaged"),
        (b"\xff\xd8" + b"\0" * (65 << 20), "too_large"),
    ],
)
def test_bad_bytes_are_refused_with_a_reason(data, reason):
    with pytest.raises(BadImage) as caught:
        check_image(data)
    assert caught.value.reason == reason


def test_flipped_header_bits_never_end_the_process():
    header = _COLOUR.index(b"\xff\xda")
    for bit in range(8 * header):
        flipped = bytearray(_COLOUR)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            check_image(bytes(flipped))
            decode_rgb(bytes(flipped))
        except BadImage:
            continue


def test_a_bad_image_survives_the_way_back_from_a_worker():
    import pickle

    error = pickle.loads(pickle.dumps(BadImage("empty", "the file has no bytes")))
    assert (error.reason, error.detail) == ("empty", "the file has no bytes")


def test_inspection_alone_reads_no_scan():
    assert inspect_image(_COLOUR[:-20] + b"\0" * 18 + b"\xff\xd9") == ImageInfo("jpeg", "RGB", 13, 7)


def test_every_reason_has_a_meaning():
    assert REASONS.keys() == set(get_args(Reason))


def test_the_documentation_shows_every_reason_with_its_meaning():
    text = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert {code: rows.get(code) for code in REASONS} == REASONS
