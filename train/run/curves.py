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
_FINER = 2  # drawn twice as large, then reduced, so that lines are smooth
_INK, _FAINT, _GRID, _PAPER = (32, 34, 38), (110, 114, 122), (226, 228, 232), (255, 255, 255)
_BLUE = (28, 100, 200)
_COLOURS = {"val top-1": _BLUE, "EMA top-1": (30, 140, 80), "train top-1": (214, 96, 20)}  # the same in every picture
_MOST_EPOCH_TICKS = 10  # more labels would overlap
_TICKS = 5


@dataclass(frozen=True)
class Line:
    """One curve: its name and its points (epoch, value)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """A few curves over the same epochs, with a title and the format of the values."""

    title: str
    lines: Sequence[Line]
    value_format: str


def curves_png(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a PNG, 900 px wide, of the lines of metrics.jsonl; null and missing values are skipped."""
    panels = _panels(metrics)
    last = max((point[0] for panel in panels for line in panel.lines for point in line.points), default=1)
    sheet = Image.new("RGB", (_WIDTH_PX * _FINER, _PANEL_PX * len(panels) * _FINER), _PAPER)
    for number, panel in enumerate(panels):
        _draw_panel(ImageDraw.Draw(sheet), panel, number * _PANEL_PX, last)
    buffer = io.BytesIO()
    sheet.resize((_WIDTH_PX, _PANEL_PX * len(panels)), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _panels(metrics: Sequence[Mapping[str, Any]]) -> list[Panel]:
    def line(name: str, key: str) -> Line:
        values = [(entry["epoch"], entry.get(key)) for entry in metrics]
        return Line(name, [(epoch, value) for epoch, value in values if value is not None and math.isfinite(value)])

    accuracies = (line("val top-1", "val_top1"), line("EMA top-1", "ema_val_top1"), line("train top-1", "train_top1"))
    return [
        Panel("Training loss", [line("loss", "train_loss")], "{:.3g}"),
        Panel("Learning rate", [line("rate", "learning_rate")], "{:.1e}"),
        Panel("Accuracy", [curve for curve in accuracies if curve.points], "{:.0%}"),
    ]


def _draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, top_px: int, last_epoch: float) -> None:
    values = [value for line in panel.lines for _, value in line.points]
    ticks = nice_ticks(min(values, default=0.0), max(values, default=1.0))
    low, high = ticks[0], ticks[-1]

    def at(epoch: float, value: float) -> tuple[float, float]:
        across = (epoch - 1) / max(1, last_epoch - 1)
        up = (value - low) / (high - low)
        left, right, bottom = _LEFT_PX, _WIDTH_PX - _RIGHT_PX, top_px + _PANEL_PX - _BOTTOM_PX
        return (left + across * (right - left)) * _FINER, (bottom - up * (bottom - top_px - _TOP_PX)) * _FINER

    font = ImageFont.load_default(size=13 * _FINER)
    draw.text((_LEFT_PX * _FINER, (top_px + 10) * _FINER), panel.title, _INK, ImageFont.load_default(size=15 * _FINER))
    for tick in ticks:
        y = at(1, tick)[1]
        draw.line((at(1, tick), at(last_epoch, tick)), _GRID, _FINER)
        draw.text(((_LEFT_PX - 8) * _FINER, y), panel.value_format.format(tick), _FAINT, font, anchor="rm")
    below = at(1, low)[1] + 8 * _FINER
    for epoch in epoch_ticks(int(last_epoch)):
        name = f"epoch {epoch}" if epoch == 1 else str(epoch)
        draw.text((at(epoch, low)[0], below), name, _FAINT, font, anchor="mt")
    for number, line in enumerate(panel.lines):
        colour = _COLOURS.get(line.name, _BLUE)
        _draw_line(draw, [at(*point) for point in line.points], colour)
        right_px = _WIDTH_PX - _RIGHT_PX - 110 * (len(panel.lines) - 1 - number)
        if len(panel.lines) > 1:
            draw.text((right_px * _FINER, (top_px + 12) * _FINER), line.name, colour, font, anchor="rt")


def _draw_line(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    draw.line(list(points), colour, 2 * _FINER, joint="curve")
    radius = 3 * _FINER
    for x, y in points if len(points) <= 40 else points[-1:]:
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
