"""Histograms as inline SVG: no script, no external file."""

from html import escape

from convnext_imagenet.records.report.numbers import Histogram

_WIDTH, _HEIGHT, _AXIS = 320, 96, 18


def histogram_svg(histogram: Histogram, title: str, unit: str) -> str:
    """A figure with the histogram, its axis from 0 to the last bin, and smallest, median and largest value below."""
    bins = len(histogram.counts)
    tallest = max(max(histogram.counts), 1)
    bar = _WIDTH / bins
    bars = "".join(
        _bar(histogram, number, number * bar, bar, _HEIGHT * value / tallest)
        for number, value in enumerate(histogram.counts)
        if value
    )
    ticks = "".join(_tick(histogram, bins, share, anchor) for share, anchor in _TICKS)
    caption = (
        f"<b>{escape(title)}</b> {_number(histogram.smallest)} to {_number(histogram.largest)} {escape(unit)}, "
        f"median {_number(histogram.median)}"
    )
    return (
        f'<figure><figcaption>{caption}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT + _AXIS}" role="img" '
        f'aria-label="{escape(title)}">{bars}<path class="axis" d="M0 {_HEIGHT}.5H{_WIDTH}"/>{ticks}</svg></figure>'
    )


_TICKS = ((0.0, "start"), (0.5, "middle"), (1.0, "end"))


def _bar(histogram: Histogram, number: int, left: float, width: float, height: float) -> str:
    low = number * histogram.step
    is_last = number == len(histogram.counts) - 1
    span = f"{_number(low)} and more" if is_last else f"{_number(low)} to {_number(low + histogram.step - 1)}"
    height = max(height, 0.7)
    return (
        f'<rect x="{left:.2f}" y="{_HEIGHT - height:.2f}" width="{width - 0.6:.2f}" height="{height:.2f}">'
        f"<title>{span}: {_number(histogram.counts[number])}</title></rect>"
    )


def _tick(histogram: Histogram, bins: int, share: float, anchor: str) -> str:
    value = int(histogram.step * bins * share)
    more = "+" if share == 1 else ""
    return (
        f'<text x="{_WIDTH * share:.0f}" y="{_HEIGHT + _AXIS - 4}" text-anchor="{anchor}">{_number(value)}{more}</text>'
    )


def _number(value: int) -> str:
    return f"{value:,}"
