"""libjpeg's warnings about whole and damaged JPEGs: what means lost data, what does not, and from several threads."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.images import check_image, decode_rgb
from convnext_imagenet.records.jpeg_warnings import JpegWarnings, UnreadableJpeg, jpeg_warnings


def _picture(mode: str = "RGB", side_px: int = 160, **options: object) -> bytes:
    rough = np.random.default_rng(3).integers(0, 256, (12, 12, 3), np.uint8)
    smooth = cv2.resize(rough, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    buffer = io.BytesIO()
    Image.fromarray(smooth).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


KINDS = {
    "colour": _picture(),
    "gray": _picture("L"),
    "cmyk": _picture("CMYK"),
    "progressive": _picture(progressive=True),
    "restarts": _picture(restart_marker_blocks=5),
    "4:4:4": _picture(subsampling=0),
}
WHOLE = KINDS["colour"]
HALF = len(WHOLE) // 2


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_a_whole_image_has_no_warning_and_half_of_one_has(data: bytes):
    assert jpeg_warnings(data) == JpegWarnings()
    assert jpeg_warnings(data[: len(data) // 2] + b"\xff\xd9").lost


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WHOLE[:HALF] + b"\xff\xd9", "premature end of data segment"),
        (WHOLE[:-2] + bytes(64) + b"\xff\xd9", "64 extraneous bytes before marker 0xd9"),
        (WHOLE[:-2] + b"\x55" * 8 + b"\xff\xd9", "8 extraneous bytes before marker 0xd9"),
        (KINDS["restarts"].replace(b"\xff\xd2", b"\xff\xd6"), "found marker 0xd6 instead of RST2"),
    ],
)
def test_lost_data_is_refused_with_the_words_of_the_library(data: bytes, words: str):
    with pytest.raises(BadImage, match=f"damaged: .*{words}"):
        check_image(data)
    assert check_image(data, accept_warnings=True).warnings > 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (WHOLE[:-2] + bytes(8) + b"\xff\xd9", "Corrupt JPEG data: 8 extraneous bytes before marker 0xd9"),
        (WHOLE.replace(b"JFIF\0\1", b"JFIF\0\7"), "Warning: unknown JFIF revision number 7.01"),
    ],
)
def test_harmless_warnings_are_counted(data: bytes, words: str):
    assert jpeg_warnings(data) == JpegWarnings(1, words, "")
    assert check_image(data).warnings == 1


def test_lost_data_behind_a_harmless_warning_is_noticed():
    data = WHOLE.replace(b"JFIF\0\1", b"JFIF\0\7")[:HALF] + b"\xff\xd9"
    found = jpeg_warnings(data)
    assert (found.count, found.lost) == (2, "Corrupt JPEG data: premature end of data segment")
    assert "JFIF" in found.first


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\xd8", WHOLE[:200], b"\xff\xd8\xff\xd9"])
def test_what_is_no_jpeg_is_unreadable_and_harms_nothing(data: bytes):
    with pytest.raises(UnreadableJpeg):
        jpeg_warnings(data)
    assert jpeg_warnings(WHOLE) == JpegWarnings()


def test_an_image_without_tables_does_not_get_those_of_the_image_before():
    at = WHOLE.index(b"\xff\xdb")
    length = int.from_bytes(WHOLE[at + 2 : at + 4], "big")
    without = WHOLE[:at] + WHOLE[at + 2 + length :]
    jpeg_warnings(WHOLE)
    with pytest.raises(UnreadableJpeg, match="Quantization table 0x00 was not defined"):
        jpeg_warnings(without)


def test_threads_do_not_disturb_each_other():
    datas = [*KINDS.values(), *(data[: len(data) // 2] + b"\xff\xd9" for data in KINDS.values())] * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(jpeg_warnings, datas)) == [jpeg_warnings(data) for data in datas]


def test_what_is_accepted_decodes():
    """Random damage anywhere: an image that passes must give pixels, or training would stop at it."""
    rng = np.random.default_rng(1)
    kinds, accepted = list(KINDS.values()), 0
    for _ in range(1500):
        data = bytearray(kinds[rng.integers(len(kinds))])
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            info = check_image(bytes(data), accept_warnings=True)
        except BadImage:
            continue
        accepted += 1
        assert decode_rgb(bytes(data)).shape == (info.height, info.width, 3)
    assert accepted > 500


def _hole(data: bytes, size: int) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes(size) + data[half + size :]


@pytest.mark.slow
def test_real_images_are_whole_and_damage_of_them_is_noticed(shared_data: Path):
    """The faults that every decoder hides; libjpeg alone notices 95 to 98 of 100."""
    images = [path.read_bytes() for path in sorted((shared_data / "fullsize" / "train").rglob("*.JPEG"))]
    small = [path.read_bytes() for path in (shared_data / "nette96").rglob("*.JPEG")]
    assert (len(images), len(small)) == (246, 13394)
    assert {check_image(data).warnings for data in (*images, *small)} == {0}
    large = [data for data in images if len(data) > 20_000]
    faults = [data for d in large for data in (_hole(d, 4096), _hole(d, 512), d[: len(d) // 2] + b"\xff\xd9")]
    noticed = [bool(jpeg_warnings(data).lost) for data in faults]
    assert (len(noticed), sum(noticed) >= 664) == (681, True), sum(noticed)
