"""The resize against Pillow, bit by bit, with and without the kernel."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.model import resize as module
from convnext_imagenet.model.kernels.build import kernels_library
from convnext_imagenet.model.resize import is_vertical_first, resize

PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


def _pillow(pixels: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int], kind: str) -> np.ndarray:
    top, left, height, width = box
    crop = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return np.asarray(Image.fromarray(crop).resize(size[::-1], PILLOW[kind]))


def _case(seed: int) -> tuple[np.ndarray, tuple[int, int, int, int], tuple[int, int]]:
    """An image, a box in it and a size: small and thin ones, sides that stay, values at both ends."""
    rng = np.random.default_rng(seed)
    limit = 90 if seed % 5 else 500
    image_height, image_width = (int(side) for side in rng.integers(1, limit, 2))
    pixels = rng.integers(0, 256, (image_height, image_width, 3), dtype=np.uint8)
    if seed % 3 == 0:
        pixels = (pixels > 127).astype(np.uint8) * 255
    height, width = int(rng.integers(1, image_height + 1)), int(rng.integers(1, image_width + 1))
    top, left = int(rng.integers(image_height - height + 1)), int(rng.integers(image_width - width + 1))
    size = [int(side) for side in rng.integers(1, 120, 2)]
    if seed % 4 == 0:
        size[seed // 4 % 2] = (height, width)[seed // 4 % 2]
    return pixels, (top, left, height, width), (size[0], size[1])


@pytest.mark.parametrize("kind", PILLOW)
@pytest.mark.parametrize("first_seed", [0, 100])
def test_every_bit_is_pillows(kind: str, first_seed: int) -> None:
    if kernels_library() is None:
        pytest.skip("no kernels on this machine")
    for seed in range(first_seed, first_seed + 100):
        pixels, box, size = _case(seed)
        expected = _pillow(pixels, box, size, kind)
        np.testing.assert_array_equal(resize(pixels, box, size, kind), expected, err_msg=f"{seed} {box} {size}")


def _window(size: tuple[int, int], seed: int) -> tuple[int, int, int, int]:
    rng = np.random.default_rng(seed)
    height, width = (int(rng.integers(1, side + 1)) for side in size)
    return int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1)), height, width


@pytest.mark.parametrize("has_kernel", [True, False])
def test_a_window_is_that_part_of_the_whole(has_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_kernel:
        monkeypatch.setattr(module, "_kernel", lambda: None)
    for seed in range(200):
        pixels, box, size = _case(seed)
        top, left, height, width = window = _window(size, seed)
        expected = _pillow(pixels, box, size, "bicubic")[top : top + height, left : left + width]
        found = resize(pixels, box, size, "bicubic", window=window)
        np.testing.assert_array_equal(found, expected, err_msg=f"{seed} {box} {size} {window}")


def test_a_window_outside_of_the_result_is_refused() -> None:
    with pytest.raises(ValueError, match="is not inside an image of 8 x 9 px"):
        resize(np.zeros((20, 20, 3), np.uint8), (0, 0, 20, 20), (8, 9), "bicubic", window=(0, 1, 8, 9))


def test_weights_of_long_sides_are_not_kept() -> None:
    module._kept_weights.cache_clear()
    for side in (2048, 2049):
        resize(np.zeros((2, side, 3), np.uint8), (0, 0, 2, side), (2, 5), "bicubic")
    assert module._kept_weights.cache_info().currsize == 2  # of 2048, and of 2 to 2


def test_without_the_kernel_pillow_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kernel", lambda: None)
    for seed in range(20):
        pixels, box, size = _case(seed)
        np.testing.assert_array_equal(resize(pixels, box, size, "bicubic"), _pillow(pixels, box, size, "bicubic"))


def test_the_result_may_be_a_place_in_a_batch() -> None:
    pixels, box, size = _case(1)
    batch = np.zeros((3, *size, 3), np.uint8)
    assert resize(pixels, box, size, "bilinear", batch[1]) is not None
    np.testing.assert_array_equal(batch[1], _pillow(pixels, box, size, "bilinear"))
    assert not batch[[0, 2]].any()


def test_strided_and_mirrored_pixels_give_what_they_show() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for view in (pixels[::2], pixels[:, ::-1], pixels.transpose(1, 0, 2)):
        box = (1, 2, 15, 20)
        np.testing.assert_array_equal(resize(view, box, (9, 11), "bicubic"), _pillow(view, box, (9, 11), "bicubic"))


@pytest.mark.parametrize("box", [(0, 0, 5, 11), (-1, 0, 3, 3), (0, 8, 2, 3), (0, 0, 0, 3)])
def test_a_box_outside_of_the_image_is_a_bug(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="is not inside an image of 5 x 10 px"):
        resize(np.zeros((5, 10, 3), np.uint8), box, (4, 4), "bicubic")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [((40, 40), (30, 60), True), ((40, 40), (60, 30), False), ((28, 27), (14, 19), False), ((69, 63), (34, 46), True)],
)
def test_the_order_of_the_passes(old: tuple[int, int], new: tuple[int, int], expected: bool) -> None:
    assert is_vertical_first(old, new) == expected


def test_photographs(shared_data: Path) -> None:
    for path in sorted((shared_data / "fullsize" / "train").glob("*/*.JPEG"))[::50]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        box = (3, 5, pixels.shape[0] - 7, pixels.shape[1] - 9)
        np.testing.assert_array_equal(
            resize(pixels, box, (224, 224), "bicubic"), _pillow(pixels, box, (224, 224), "bicubic")
        )
