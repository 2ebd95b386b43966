"""Draws the metrics of a run as one picture: loss, learning rate and accuracy over the epochs.

This module must not read files.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_WIDTH_PX, _PANEL_PX, _LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 900, 260, 84, 24, 40, 34
_NAME_GAP_PX = 18  # between the names of two curves
_FINER = 2  # drawn twice as large, then reduced, so that lines are smooth
_INK, _FAINT, _GRID, _PAPER = (32, 34, 38), (110, 114, 122), (226, 228, 232), (255, 255, 255)
# The same in every picture: of the training images, of val with the weights, of val with their average, the rate.
_TRAIN, _VAL, _EMA, _RATE = (214, 96, 20), (28, 100, 200), (30, 140, 80), (110, 70, 170)
_MOST_DOTS = 40  # more points are drawn as a line without dots
_MOST_EPOCH_TICKS = 10  # more labels would overlap
_TICKS = 5


@dataclass(frozen=True)
class Line:
    """One curve: its name, its colour and its pieces of points (epoch, value); between pieces, epochs are missing."""

    name: str
    colour: tuple[int, int, int]
    pieces: Sequence[Sequence[tuple[int, float]]]

    @property
    def points(self) -> list[tuple[int, float]]:
        """Return the points of all pieces."""
        return [point for piece in self.pieces for point in piece]


@dataclass(frozen=True)
class Panel:
    """A few curves over the same epochs, with a title and the format of the values."""

    title: str
    lines: Sequence[Line]
    value_format: str


def curves_png(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a PNG, 900 px wide, of the lines of metrics.jsonl.

    Null and missing values are skipped. A curve has a gap where the lines of whole epochs are missing.
    """
    panels = _panels(metrics)
    last = max((entry["epoch"] for entry in metrics), default=1)
    sheet = Image.new("RGB", (_WIDTH_PX * _FINER, _PANEL_PX * len(panels) * _FINER), _PAPER)
    for number, panel in enumerate(panels):
        _draw_panel(ImageDraw.Draw(sheet), panel, number * _PANEL_PX, last)
    buffer = io.BytesIO()
    sheet.resize((_WIDTH_PX, _PANEL_PX * len(panels)), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _panels(metrics: Sequence[Mapping[str, Any]]) -> list[Panel]:
    mixed = _stated(metrics, [("train_is_mixed", "mixed images")])
    of_loss = _stated(
        metrics,
        [
            ("train_is_mixed", "mixed images"),
            ("train_label_smoothing", "smoothed labels"),
            ("train_has_class_weights", "weighted classes"),
        ],
    )

    def drawn(*lines: tuple[str, tuple[int, int, int], str]) -> list[Line]:
        every = [Line(name, colour, _pieces(metrics, key)) for name, colour, key in lines]
        return [line for line in every if line.pieces]

    losses = (
        ("val loss", _VAL, "val_loss"),
        ("EMA val loss", _EMA, "ema_val_loss"),
        (f"train loss{of_loss}", _TRAIN, "train_loss"),
    )
    accuracies = (
        ("val top-1", _VAL, "val_top1"),
        ("EMA val top-1", _EMA, "ema_val_top1"),
        (f"train top-1{mixed}", _TRAIN, "train_top1"),
    )
    return [
        Panel("Loss: mean cross entropy in nats", drawn(*losses), "{:.3g}"),
        Panel("Learning rate at the end of the epoch", drawn(("", _RATE, "learning_rate")), "{:.1e}"),
        Panel("Accuracy: % of images", drawn(*accuracies), "{:.0%}"),
    ]


def _stated(metrics: Sequence[Mapping[str, Any]], words: Sequence[tuple[str, str]]) -> str:
    """Return the words of the keys that any line sets, in brackets, or nothing."""
    stated = [word for key, word in words if any(entry.get(key) for entry in metrics)]
    return f" ({', '.join(stated)})" if stated else ""


def _pieces(metrics: Sequence[Mapping[str, Any]], key: str) -> list[list[tuple[int, float]]]:
    """Return the finite values of `key` by epoch, in pieces; a new piece begins after an epoch without a line."""
    pieces: list[list[tuple[int, float]]] = [[]]
    before = None
    for entry in metrics:
        epoch, value = entry["epoch"], entry.get(key)
        if before is not None and epoch != before + 1:
            pieces.append([])
        if value is not None and math.isfinite(value):
            pieces[-1].append((epoch, value))
        before = epoch
    return [piece for piece in pieces if piece]


def _draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, top_px: int, last_epoch: int) -> None:
    values = [value for line in panel.lines for _, value in line.points]
    ticks = nice_ticks(min(values, default=0.0), max(values, default=1.0))
    low, high = ticks[0], ticks[-1]
    left, right, bottom = _LEFT_PX, _WIDTH_PX - _RIGHT_PX, top_px + _PANEL_PX - _BOTTOM_PX

    def at(epoch: float, value: float) -> tuple[float, float]:
        across = 0.5 if last_epoch == 1 else (epoch - 1) / (last_epoch - 1)
        up = (value - low) / (high - low)
        return (left + across * (right - left)) * _FINER, (bottom - up * (bottom - top_px - _TOP_PX)) * _FINER

    font = ImageFont.load_default(size=13 * _FINER)
    draw.text((left * _FINER, (top_px + 10) * _FINER), panel.title, _INK, ImageFont.load_default(size=15 * _FINER))
    for tick in ticks:
        y = at(1, tick)[1]
        draw.line((left * _FINER, y, right * _FINER, y), _GRID, _FINER)
        draw.text(((left - 8) * _FINER, y), panel.value_format.format(tick), _FAINT, font, anchor="rm")
    below = (bottom + 12) * _FINER
    draw.text(((left - 14) * _FINER, below), "epoch", _FAINT, font, anchor="rt")
    for epoch in epoch_ticks(last_epoch):
        draw.text((at(epoch, low)[0], below), str(epoch), _FAINT, font, anchor="mt")
    name_right = float(right * _FINER)
    for line in reversed(panel.lines):
        for piece in line.pieces:
            _draw_line(draw, [at(*point) for point in piece], line.colour, len(line.points) <= _MOST_DOTS)
        draw.text((name_right, (top_px + 12) * _FINER), line.name, line.colour, font, anchor="rt")
        name_right -= draw.textlength(line.name, font) + _NAME_GAP_PX * _FINER


def _draw_line(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], with_dots: bool
) -> None:
    draw.line(list(points), colour, 2 * _FINER, joint="curve")
    radius = 3 * _FINER
    for x, y in points if with_dots else points[-1:]:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def epoch_ticks(last: int) -> list[int]:
    """Return the epochs to name below a panel: all of up to ten, else the first, the last and round ones between."""
    if last <= _MOST_EPOCH_TICKS:
        return list(range(1, last + 1))
    rough = last / (_MOST_EPOCH_TICKS - 2)
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough)
    between = [epoch for epoch in range(step, last, step) if epoch > 1 and last - epoch >= step / 2]
    return [1, *between, last]


def nice_ticks(low: float, high: float) -> list[float]:
    """Return about five round values from at most `low` to at least `high`, evenly spaced."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / (_TICKS - 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, last + 1)]
