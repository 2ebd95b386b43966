"""The reliability diagram as a bar chart. Pure: bins in, sizes and texts out."""

from collections.abc import Sequence
from dataclasses import dataclass

from convnext_imagenet.base.html import Bar, BarChart
from convnext_imagenet.serve.report.numbers import Bin

_SIDE = 240  # of the square chart, in its own units
_LEAST_HEIGHT = 0.7  # a bin without a correct image still shows a line
_GAP = 0.6  # on each side of a bar, so that neighbours can be distinguished


@dataclass(frozen=True)
class Mark:
    """A horizontal line from `left` to `right` at height `y`, in the chart's units from its upper left corner."""

    left: float
    right: float
    y: float


def reliability_chart(bins: Sequence[Bin]) -> tuple[BarChart, list[Mark]]:
    """Return a bar with the accuracy of each bin that holds images, and a mark at the bin's mean probability."""
    filled = [one_bin for one_bin in bins if one_bin.rows]
    chart = BarChart("Reliability", _SIDE, _SIDE, tuple(map(_bar, filled)), ("0%", "50%", "100%"))
    return chart, list(map(_mark, filled))


def _bar(one_bin: Bin) -> Bar:
    left, right = _edges(one_bin)
    height = (one_bin.accuracy or 0.0) * _SIDE
    text = f"{one_bin.correct:,} of {one_bin.rows:,} correct"
    return Bar(left, _SIDE - height, right - left, max(height, _LEAST_HEIGHT), text)


def _mark(one_bin: Bin) -> Mark:
    return Mark(*_edges(one_bin), _SIDE - (one_bin.mean_confidence or 0.0) * _SIDE)


def _edges(one_bin: Bin) -> tuple[float, float]:
    return one_bin.low * _SIDE + _GAP, one_bin.high * _SIDE - _GAP
