"""The reliability diagram as inline SVG, and what the page needs in style besides that of the records' report."""

from collections.abc import Sequence

from convnext_imagenet.serve.report.numbers import Bin

_SIDE, _AXIS = 240, 18
STYLE = """\
.mistakes { display: flex; flex-wrap: wrap; gap: .75rem 1rem; margin: .5rem 0 1.5rem; }
.mistakes figure { width: 10.4rem; overflow-wrap: anywhere; }
.mistakes img { width: 96px; height: 96px; border-radius: 3px; background: var(--band); }
.reliability { width: 20rem; max-width: 100%; margin: 1rem 0; }
.reliability .ideal { stroke: var(--dim); stroke-dasharray: 4 3; }
.reliability .mean { stroke: var(--bad); stroke-width: 2; }
"""


def reliability_svg(bins: Sequence[Bin]) -> str:
    """Bars of the share that is right in each bin; a red line marks the mean probability, the diagonal the ideal."""
    bars = "".join(_bar(each) for each in bins if each.rows)
    ticks = "".join(
        f'<text x="{share * _SIDE:.0f}" y="{_SIDE + _AXIS - 4}" text-anchor="{anchor}">{share:.0%}</text>'
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    )
    return (
        '<figure class="reliability"><figcaption><b>Reliability</b> bars: share that is right; red: mean probability; '
        f'dashed: a network that is right as often as it says</figcaption><svg viewBox="0 0 {_SIDE} {_SIDE + _AXIS}" '
        f'role="img" aria-label="Reliability">{bars}<path class="ideal" d="M0 {_SIDE}L{_SIDE} 0"/>'
        f'<path class="axis" d="M0 {_SIDE}.5H{_SIDE}"/>{ticks}</svg></figure>\n'
    )


def _bar(each: Bin) -> str:
    left, right = each.low * _SIDE + 0.6, each.high * _SIDE - 0.6
    height, mean = (max(share or 0.0, 0.0) * _SIDE for share in (each.accuracy, each.mean_confidence))
    return (
        f'<rect x="{left:.2f}" y="{_SIDE - height:.2f}" width="{right - left:.2f}" height="{max(height, 0.7):.2f}">'
        f"<title>{each.correct:,} of {each.rows:,} right</title></rect>"
        f'<path class="mean" d="M{left:.2f} {_SIDE - mean:.2f}H{right:.2f}"/>'
    )
