"""The picture of a run: it can be read as a PNG, its curves move, and odd metrics do not break it."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.train.run.curves import curves_png, epoch_ticks, nice_ticks

ORANGE, BLUE = (214, 96, 20), (28, 100, 200)


def _drawn(metrics: list[dict[str, Any]], panel: int, colour: tuple[int, int, int]) -> np.ndarray:
    """Return which columns of a panel's drawing have this colour, without its title, names and margins."""
    picture = np.asarray(Image.open(io.BytesIO(curves_png(metrics))))[panel * 260 + 36 : (panel + 1) * 260 - 30]
    return (np.abs(picture.astype(int) - colour).max(-1) < 30).any(axis=0)


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
    for picture in (with_ema, without):
        accuracy = np.asarray(Image.open(io.BytesIO(picture)))[520:].astype(int)
        assert (np.abs(accuracy - BLUE).max(-1) < 30).sum() > 500


def test_val_loss_stands_beside_train_loss() -> None:
    assert _drawn(_metrics(5), 0, ORANGE).sum() > 700
    assert not _drawn(_metrics(5), 0, BLUE).any()
    assert _drawn(_metrics(5, val_loss=1.5), 0, BLUE).sum() > 700


def test_missing_epochs_are_a_gap_and_epochs_without_an_evaluation_are_not() -> None:
    gap = [line for line in _metrics(9) if line["epoch"] not in (1, 2, 5)]  # epochs are 99 px apart, from 84
    columns = _drawn(gap, 0, ORANGE)
    assert not columns[:270].any(), "the axis begins with epoch 1 all the same"
    assert not columns[390:570].any()
    assert columns[290:370].all()
    rare = [line | {"val_loss": 1.5 if line["epoch"] in (3, 6, 9) else None} for line in _metrics(9)]
    assert _drawn(rare, 0, BLUE)[290:870].all()


@pytest.mark.parametrize(
    ("change", "panels"),
    [
        ({"train_is_mixed": True}, [True, False, True]),
        ({"train_label_smoothing": 0.1}, [True, False, False]),
        ({"train_has_class_weights": True}, [True, False, False]),
        ({"train_label_smoothing": 0.0, "train_has_class_weights": False}, [False, False, False]),
    ],
)
def test_curves_of_other_images_and_targets_than_those_of_val_are_named_so(
    change: dict[str, Any], panels: list[bool]
) -> None:
    plain, changed = (np.asarray(Image.open(io.BytesIO(curves_png(_metrics(3, **more))))) for more in ({}, change))
    names = [slice(panel * 260, panel * 260 + 30) for panel in range(3)]
    assert [np.any(plain[rows] != changed[rows]) for rows in names] == panels
