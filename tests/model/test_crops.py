"""A box of a JPEG against the same box of a full decode, bit by bit."""

import io
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.model import crops as module
from convnext_imagenet.model.crops import Crop, crop_jpegs
from convnext_imagenet.model.resize import Box, resize

SAMPLINGS = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
KINDS = {
    "baseline": [],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
}


@pytest.fixture(autouse=True)
def fresh_decoder() -> Iterator[None]:
    module._decoder.cache_clear()
    yield
    module._decoder.cache_clear()


@pytest.fixture
def _needs_decoder() -> None:
    if module._bind_kernel() is None:
        pytest.skip("no decoder for boxes on this machine")


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise: a neighbour's chroma shows in a pixel, and no two blocks are alike."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def _box(data: bytes, height: int, width: int, box: Box) -> np.ndarray | None:
    """The box as it is, or None where the file has to be decoded as a whole."""
    pixels = np.zeros((1, *box[2:], 3), np.uint8)
    return pixels[0] if crop_jpegs([Crop(data, height, width, box)], pixels) == [True] else None


def _encoded(pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".jpg", pixels, options)[1].tobytes()


def _whole(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _boxes(height: int, width: int, count: int, seed: int) -> Iterator[tuple[int, int, int, int]]:
    rng = np.random.default_rng(seed)
    yield 0, 0, height, width
    yield height - 1, width - 1, 1, 1
    for _ in range(count):
        box_height, box_width = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        yield (
            int(rng.integers(height - box_height + 1)),
            int(rng.integers(width - box_width + 1)),
            box_height,
            box_width,
        )


def _check(data: bytes, seed: int, count: int = 25) -> None:
    whole = _whole(data)
    for box in _boxes(*whole.shape[:2], count, seed):
        top, left, height, width = box
        found = _box(data, *whole.shape[:2], box)
        assert found is not None
        np.testing.assert_array_equal(found, whole[top : top + height, left : left + width], err_msg=str(box))


@pytest.mark.usefixtures("_needs_decoder")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_bit_is_that_of_a_full_decode(sampling: str, kind: str) -> None:
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], *KINDS[kind]]
    for seed, (height, width) in enumerate([(120, 200), (97, 131), (33, 500), (1, 1), (7, 2), (16, 17)]):
        _check(_encoded(_picture(height, width, seed), *options), seed)


@pytest.mark.usefixtures("_needs_decoder")
@pytest.mark.parametrize("kind", KINDS)
def test_gray_becomes_rgb(kind: str) -> None:
    _check(_encoded(_picture(75, 110)[..., 0], *KINDS[kind]), 0)


@pytest.mark.usefixtures("_needs_decoder")
@pytest.mark.parametrize(
    "sides", [(119, 200), (121, 200), (120, 199), (120, 201)], ids=lambda sides: f"{sides[0]}x{sides[1]}"
)
def test_a_file_of_other_sides_is_left_to_the_full_decode(sides: tuple[int, int]) -> None:
    assert _box(_encoded(_picture(120, 200)), *sides, (3, 5, 50, 60)) is None


@pytest.mark.usefixtures("_needs_decoder")
@pytest.mark.parametrize(
    "damaged",
    [
        lambda data: b"",
        lambda data: b"\xff\xd8",
        lambda data: data[: len(data) // 2],
        lambda data: data[:20] + data[40:],
        lambda data: b"\x89PNG\r\n\x1a\n" + data,
        lambda data: data[: len(data) // 3] + b"\xff\xd9" + data[len(data) // 3 + 2 :],
    ],
    ids=["empty", "two bytes", "half", "a hole in the header", "another kind", "an end marker in the scan"],
)
def test_a_damaged_file_is_left_to_the_full_decode(damaged) -> None:
    data = damaged(_encoded(_picture(120, 200)))
    assert _box(data, 120, 200, (60, 5, 60, 190)) is None


@pytest.mark.usefixtures("_needs_decoder")
def test_no_cut_of_a_file_ends_the_process() -> None:
    data = _encoded(_picture(64, 64), *KINDS["progressive"])
    whole = _whole(data)[10:40, 10:40]
    for end in range(0, len(data), 7):
        found = _box(data[:end], 64, 64, (10, 10, 30, 30))
        assert found is None or np.array_equal(found, whole)


@pytest.mark.usefixtures("_needs_decoder")
def test_four_colours_are_left_to_the_full_decode() -> None:
    buffer = io.BytesIO()
    Image.fromarray(_picture(40, 50)).convert("CMYK").save(buffer, "JPEG")
    assert _box(buffer.getvalue(), 40, 50, (0, 0, 40, 50)) is None


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (6, 0, 5, 5), (0, 16, 5, 5)])
def test_a_box_outside_is_the_callers_mistake(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="is not inside an image of 10 x 20 px"):
        _box(_encoded(_picture(10, 20)), 10, 20, box)


def test_without_kernels_there_is_no_decoder_for_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kernels_library", lambda: None)
    assert _box(_encoded(_picture(10, 20)), 10, 20, (0, 0, 5, 5)) is None


@pytest.mark.usefixtures("_needs_decoder")
def test_without_libjpeg_turbo_there_is_no_decoder_for_boxes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_NAMES", ("jpeg_std_error", "jpeg_no_such_function"))
    with caplog.at_level("INFO"):
        assert _box(_encoded(_picture(10, 20)), 10, 20, (0, 0, 5, 5)) is None
    assert "jpeg_no_such_function" in caplog.text


@pytest.mark.usefixtures("_needs_decoder")
def test_a_decoder_that_differs_from_opencv_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_bind_kernel", lambda: lambda crops, out: [True] * len(crops))
    with caplog.at_level("INFO"):
        assert _box(_encoded(_picture(10, 20)), 10, 20, (0, 0, 5, 5)) is None
    assert "gives other pixels than OpenCV's" in caplog.text


@pytest.mark.usefixtures("_needs_decoder")
def test_a_chunk_of_crops_is_resized_and_mirrored_and_says_which_are_missing() -> None:
    whole = _picture(130, 170)
    data = _encoded(whole)
    boxes = [(0, 0, 130, 170), (20, 30, 50, 40), (90, 1, 40, 169), (0, 0, 1, 1)]
    crops = [Crop(data, 130, 170, box, "bilinear" if box[0] else "bicubic", bool(box[1])) for box in boxes]
    crops.insert(2, Crop(data[:700], 130, 170, (60, 60, 20, 20)))
    found = np.zeros((5, 48, 56, 3), np.uint8)
    assert crop_jpegs(crops, found) == [True, True, False, True, True]
    for crop, pixels in zip(crops, found, strict=True):
        if crop.data == data:
            expected = resize(_whole(data), crop.box, (48, 56), crop.interpolation)
            np.testing.assert_array_equal(pixels, expected[:, ::-1] if crop.is_mirrored else expected)
