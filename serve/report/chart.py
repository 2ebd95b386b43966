"""The reliability diagram as bars of a chart. Pure: bins in, sizes and texts out."""

from collections.abc import Sequence
from dataclasses import dataclass

from convnext_imagenet.base.html import Bar, BarChart
from convnext_imagenet.serve.report.numbers import Bin

_SIDE = 240
_LEAST_HEIGHT = 0.7
_GAP = 0.6


@dataclass(frozen=True)
class Mark:
    """A level line from `left` to `right` at height `y`, in the chart's units from its upper left corner."""

    left: float
    right: float
    y: float


def reliability_chart(bins: Sequence[Bin]) -> tuple[BarChart, list[Mark]]:
    """Bars of the share that is right in each bin that holds images, and a mark at the bin's mean probability."""
    filled = [each for each in bins if each.rows]
    chart = BarChart("Reliability", _SIDE, _SIDE, tuple(_bar(each) for each in filled), ("0%", "50%", "100%"))
    return chart, [_mark(each) for each in filled]


def _bar(each: Bin) -> Bar:
    left, right = _edges(each)
    height = (each.accuracy or 0.0) * _SIDE
    text = f"{each.correct:,} of {each.rows:,} right"
    return Bar(left, _SIDE - height, right - left, max(height, _LEAST_HEIGHT), text)


def _mark(each: Bin) -> Mark:
    return Mark(*_edges(each), _SIDE - (each.mean_confidence or 0.0) * _SIDE)


def _edges(each: Bin) -> tuple[float, float]:
    return each.low * _SIDE + _GAP, each.high * _SIDE - _GAP
