"""The label stands under the image, readable at any size."""

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.serve.picture import labelled_picture, save_picture


def _gray(width, height):
    return np.full((height, width, 3), 128, np.uint8)


@pytest.mark.parametrize("sides", [(8, 8), (20, 600), (1500, 100), (500, 375), (1, 1), (2000, 1500)])
def test_image_above_caption_below(sides):
    width, height = sides
    drawn = np.asarray(labelled_picture(_gray(width, height), "tench", 0.5))
    assert drawn.shape[1] >= 384
    shown = round(height * max(1, 384 / max(sides)))
    assert (drawn[shown // 2, drawn.shape[1] // 2] == 128).all()
    caption = drawn[shown + max(3, (drawn.shape[0] - shown) // 6) :]
    ink = (caption.min(axis=2) > 200).sum()
    assert ink > 100, "the label can be seen"
    assert (caption[:2] < 100).all(), "and does not touch the image"
    assert (caption[-2:] < 100).all(), "nor the edge"


def test_the_line_is_as_long_as_the_score():
    for score in (0.0, 0.25, 1.0):
        drawn = np.asarray(labelled_picture(_gray(400, 400), "tench", score))
        assert (drawn[401] == (94, 174, 255)).all(axis=1).sum() == pytest.approx(400 * score, abs=1)


def test_a_long_label_does_not_run_into_the_score():
    short = np.asarray(labelled_picture(_gray(400, 300), "x", 0.5))
    long = np.asarray(labelled_picture(_gray(400, 300), "x" * 300, 0.5))
    assert short.shape == long.shape
    assert (short[:, 330:] == long[:, 330:]).all(), "the score is drawn over nothing"
    assert (short != long).any()


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("deep/b.JPEG", "JPEG"), ("c.png", "PNG")])
def test_saved_as_the_ending_says(tmp_path, name, kind):
    save_picture(labelled_picture(_gray(100, 100), "tench", 0.5), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
