"""RandomErasing's draws: boxes, areas, ratios, keys."""

import dataclasses

import numpy as np
import pytest

from convnext_imagenet.train.augment.erase import NOISE_VALUES, erase_boxes, erase_colours, noise_bank, noise_start
from convnext_imagenet.train.config.sections import AugmentSection

ALWAYS = AugmentSection(erase_prob=1.0)


def _boxes(section: AugmentSection, count: int, size_px: int = 224) -> np.ndarray:
    return np.stack([erase_boxes(section, 0, 1, sample_id, size_px) for sample_id in range(count)])


@pytest.mark.parametrize("prob", [0.0, 0.25, 1.0])
def test_a_share_of_the_images_is_erased(prob: float) -> None:
    boxes = _boxes(dataclasses.replace(ALWAYS, erase_prob=prob), 2000)
    assert boxes.any(axis=(1, 2)).mean() == pytest.approx(prob, abs=0.03)


def test_areas_and_ratios_are_uniform_within_their_bounds() -> None:
    top, left, bottom, right = _boxes(ALWAYS, 3000)[:, 0].T
    height, width = bottom - top, right - left
    area, ratio = height * width / 224**2, np.log(height / width)
    assert (top.min(), left.min()) == (0, 0)
    assert max(bottom.max(), right.max()) == 224
    assert area.min() == pytest.approx(0.02, abs=0.002)
    assert area.max() <= 1 / 3 + 0.003
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, rel=0.04)
    assert np.abs(ratio).max() == pytest.approx(np.log(10 / 3), abs=0.05)
    assert ratio.mean() == pytest.approx(0, abs=0.05)
    assert max(height.max(), width.max()) < 224  # strictly smaller than the image


def test_several_boxes_share_the_area() -> None:
    boxes = _boxes(dataclasses.replace(ALWAYS, erase_count=3), 1500)
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) / 224**2
    assert areas.sum(1).mean() == pytest.approx((0.02 + 1 / 3) / 2, rel=0.04)


def test_no_box_fits_a_tiny_image_that_is_to_be_erased_whole() -> None:
    section = dataclasses.replace(ALWAYS, erase_scale=(1.0, 1.0), erase_ratio=(1.0, 1.0))
    assert not erase_boxes(section, 0, 1, 0, 8).any()


def test_draws_depend_on_seed_epoch_and_sample() -> None:
    keys = [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]
    assert len({erase_boxes(ALWAYS, *key, 224).tobytes() for key in keys}) == 4
    assert len({noise_start(*key) for key in keys}) == 4
    assert len({erase_colours(ALWAYS, *key).tobytes() for key in keys}) == 4
    np.testing.assert_array_equal(erase_boxes(ALWAYS, 5, 6, 7, 224), erase_boxes(ALWAYS, 5, 6, 7, 224))


def test_the_noise_is_standard_normal() -> None:
    bank = noise_bank(0)
    assert (bank.shape, bank.dtype) == ((NOISE_VALUES,), np.float32)
    assert abs(float(bank.mean())) < 3e-3
    assert float(bank.std()) == pytest.approx(1, abs=3e-3)
