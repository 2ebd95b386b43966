"""A probe as one HTML page that needs no other file. Pure: the report in, text out; words are in the template."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convnext_imagenet.base.html import render
from convnext_imagenet.base.wording import share

HEADS = {"linear": "linear", "mlp": "perceptron", "neighbours": "nearest neighbours"}
MOST_MATRIX_CLASSES = 30  # more columns are not readable
MOST_PAIRS = 200
_WIDTH, _HEIGHT = 480, 240  # of the chart, in its own units
_LEFT = 40  # for the percentages beside it
_DECADE = 10


@dataclass(frozen=True)
class Curve:
    """One head: its name, its points (x, y, tooltip) in chart units, and its place in the list of colours."""

    name: str
    points: Sequence[tuple[float, float, str]]
    colour: int


def probe_page(report: Mapping[str, Any], confusion: np.ndarray, names: Sequence[str]) -> str:
    """Return the page of a report; `confusion` (K, K) counts rows of val by true and predicted class."""
    rows = report["rows"]["val"]
    heads = [(kind, row) for kind in HEADS for row in report.get(kind, ())]
    pairs = [
        (names[truth], names[guess], int(confusion[truth, guess]))
        for truth, guess in zip(*np.nonzero(confusion), strict=True)
        if truth != guess
    ]
    return render(
        "train/probe/probe.html",
        title=f"Probe of {report['weights']['file']}",
        report=report,
        curves=curves(report),
        fractions=[(_x(row["fraction"], _least(report)), _percent(row["fraction"])) for row in report["linear"]],
        size=(_WIDTH, _HEIGHT, _LEFT),
        head_rows=[
            (
                HEADS[kind],
                _percent(row["fraction"]),
                _choice(kind, row),
                row["rows"],
                row["top1_correct"],
                share(row["top1_correct"] / rows),
                f"{row['seconds']:.1f}",
            )
            for kind, row in heads
        ],
        strengths=[(f"{row['strength']:g}", row["correct"], row["held_out"]) for row in report["linear"][-1]["tried"]],
        matrix=_matrix(confusion) if len(names) <= MOST_MATRIX_CLASSES else None,
        names=names,
        pairs=sorted(pairs, key=lambda pair: -pair[2])[:MOST_PAIRS],
        pair_count=len(pairs),
        most_pairs=MOST_PAIRS,
        facts={
            "weights": f"{report['weights']['file']}, SHA-256 {report['weights']['sha256']}",
            "records": f"SHA-256 of the manifest {report['records']}",
            "seed": report["seed"],
        },
    )


def curves(report: Mapping[str, Any]) -> list[Curve]:
    """Return the accuracy on val of each head by share of the labels, over a logarithmic axis."""
    rows, least = report["rows"]["val"], _least(report)
    found = []
    for colour, (kind, name) in enumerate(HEADS.items()):
        points = [
            (
                _x(row["fraction"], least),
                _HEIGHT * (1 - row["top1_correct"] / rows),
                f"{name}, {_percent(row['fraction'])} of the labels: {row['top1_correct'] / rows:.1%}",
            )
            for row in sorted(report.get(kind, ()), key=lambda row: row["fraction"])
        ]
        if points:
            found.append(Curve(name, points, colour))
    return found


def _least(report: Mapping[str, Any]) -> float:
    """Return the left end of the axis: the smallest share, but never the whole."""
    return min(*(row["fraction"] for row in report["linear"]), 1 / _DECADE)


def _x(fraction: float, least: float) -> float:
    return _LEFT + (_WIDTH - _LEFT) * (1 - math.log(fraction) / math.log(least))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}%"


def _choice(kind: str, row: Mapping[str, Any]) -> str:
    if kind == "neighbours":
        return f"k {row['k']}"
    if kind == "mlp":
        return f"{row['hidden']} units, decay {row['decay']:g}"
    return f"strength {row['strength']:g}{'' if row['is_optimal'] else ', stopped short of its optimum'}"


def _matrix(confusion: np.ndarray) -> list[list[tuple[int, float]]]:
    """Return for each cell the count and its share of the row, 0..1."""
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return [
        [(int(count), float(part)) for count, part in zip(*both, strict=True)]
        for both in zip(confusion, confusion / totals, strict=True)
    ]
