"""The picture of a run: it can be read as a PNG, its curves move, and odd metrics do not break it."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.train.run.curves import curves_png, epoch_ticks, nice_ticks


def _metrics(epochs: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "train_loss": 3 / n, "learning_rate": 1e-3 / n, "train_top1": 1 - 1 / (n + 1), "val_top1": 0.5}
        | changes
        for n in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("epochs", [1, 2, 10, 300])
def test_the_picture_has_three_panels(epochs: int) -> None:
    with Image.open(io.BytesIO(curves_png(_metrics(epochs)))) as picture:
        assert (picture.format, picture.size) == ("PNG", (900, 780))


@pytest.mark.parametrize("change", [{"val_top1": None}, {"train_loss": float("nan")}, {"ema_val_top1": 0.7}])
def test_values_that_are_missing_are_left_out(change: dict[str, Any]) -> None:
    plain, changed = (np.asarray(Image.open(io.BytesIO(curves_png(m)))) for m in (_metrics(5), _metrics(5, **change)))
    assert plain.shape == changed.shape
    assert np.any(plain != changed)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.25, 0.5, 0.75, 1.0]),
        (2.0, 2.0, [2, 2.5, 3, 3.5, 4]),
        (0.013, 0.087, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
    ],
)
def test_ticks_are_round_and_cover_the_values(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("last", "ticks"),
    [
        (1, [1]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (30, [1, 5, 10, 15, 20, 25, 30]),
        (90, [1, 20, 40, 60, 80, 90]),
        (300, [1, 50, 100, 150, 200, 250, 300]),
    ],
)
def test_epochs_are_named_by_whole_numbers_in_even_steps(last: int, ticks: list[int]) -> None:
    assert epoch_ticks(last) == ticks


def test_a_curve_keeps_its_colour_when_another_is_absent() -> None:
    with_ema = curves_png(_metrics(3, ema_val_top1=0.9, train_top1=None))
    without = curves_png(_metrics(3, train_top1=None))
    blue = np.array((28, 100, 200))
    for picture in (with_ema, without):
        accuracy = np.asarray(Image.open(io.BytesIO(picture)))[520:].astype(int)
        assert (np.abs(accuracy - blue).max(-1) < 30).sum() > 500
