"""The crop's draws: inside the image, reproducible, and of the right distribution."""

import math

import numpy as np
import pytest

from convnext_imagenet.train.augment.crop import crop_box

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (1, 1), (3, 900), (900, 3), (64, 64)])
def test_boxes_stay_inside_the_image(height: int, width: int) -> None:
    for sample_id in range(200):
        top, left, box_height, box_width = crop_box(0, 1, sample_id, height, width, SCALE, RATIO)
        assert 0 <= top <= top + box_height <= height
        assert 0 <= left <= left + box_width <= width
        assert box_height >= 1 <= box_width


def test_boxes_have_uniform_area_and_log_uniform_ratio() -> None:
    boxes = np.array([crop_box(0, 1, i, 1000, 1000, (0.1, 0.5), RATIO) for i in range(4000)])
    area = boxes[:, 2] * boxes[:, 3] / 1e6
    log_ratio = np.log(boxes[:, 3] / boxes[:, 2])
    assert area.min() >= 0.098
    assert area.max() <= 0.502
    assert np.quantile(area, [0.25, 0.5, 0.75]) == pytest.approx([0.2, 0.3, 0.4], abs=0.01)
    assert np.quantile(log_ratio, [0.25, 0.5, 0.75]) == pytest.approx(
        np.array([-0.5, 0, 0.5]) * math.log(4 / 3), abs=0.02
    )
    free = 1000 - boxes[:, 2]
    assert np.mean(boxes[:, 0] / free) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (10, 1000, (0, 493, 10, 13)),  # no try fits: the widest allowed box, centred
        (1000, 10, (493, 0, 13, 10)),
    ],
)
def test_ten_failed_tries_fall_back_to_the_centre(height: int, width: int, box: tuple[int, ...]) -> None:
    assert crop_box(0, 1, 7, height, width, (0.9, 1.0), RATIO) == box


def test_whole_image_when_scale_and_ratio_allow_nothing_else() -> None:
    assert crop_box(0, 1, 0, 50, 50, (1.0, 1.0), (1.0, 1.0)) == (0, 0, 50, 50)


def test_draws_depend_on_seed_epoch_and_sample() -> None:
    first = crop_box(0, 1, 5, 375, 500, SCALE, RATIO)
    assert crop_box(0, 1, 5, 375, 500, SCALE, RATIO) == first
    others = [crop_box(*key, 375, 500, SCALE, RATIO) for key in ((1, 1, 5), (0, 2, 5), (0, 1, 6))]
    assert first not in others
