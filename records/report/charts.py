"""Histograms as bars of a chart. Pure: counts in, sizes and texts out."""

from convnext_imagenet.base.html import Bar, BarChart
from convnext_imagenet.records.report.numbers import Histogram

_WIDTH, _HEIGHT = 320, 96
_LEAST_HEIGHT = 0.7  # one image among a million stays visible
_GAP = 0.6  # between bars, in the units of _WIDTH


def histogram_chart(histogram: Histogram, title: str) -> BarChart:
    """Return a chart with a bar for each bin that is not empty, above an axis from 0 to the last bin."""
    bins = len(histogram.counts)
    end = histogram.step * bins
    bars = tuple(_bar(histogram, bin_index) for bin_index, count in enumerate(histogram.counts) if count)
    return BarChart(title, _WIDTH, _HEIGHT, bars, ("0", f"{end // 2:,}", f"{end:,}+"))


def _bar(histogram: Histogram, bin_index: int) -> Bar:
    bins, count = len(histogram.counts), histogram.counts[bin_index]
    low = bin_index * histogram.step
    span = f"{low:,} and more" if bin_index == bins - 1 else f"{low:,} to {low + histogram.step - 1:,}"
    width = _WIDTH / bins
    height = max(_HEIGHT * count / max(histogram.counts), _LEAST_HEIGHT)
    return Bar(bin_index * width, _HEIGHT - height, width - _GAP, height, f"{span}: {count:,}")
