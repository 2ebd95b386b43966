"""The evaluation as one HTML page that needs no other file. Pure: numbers in, text out.

The words are in templates/evaluation.html. The page stays small for any split: it shows a few worst classes with a few
pictures of 96 px each, and cuts long tables off.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convnext_imagenet.base.html import render
from convnext_imagenet.base.wording import share
from convnext_imagenet.serve.report.chart import reliability_chart
from convnext_imagenet.serve.report.numbers import Bin, ClassNumbers, worst_first
from convnext_imagenet.serve.report.tables import Evaluation

WORST_CLASSES = 20
MISTAKES_SHOWN = 6
# Limits that keep the page small and quick to sort; the Parquet files hold all rows.
_MOST_PAIRS = 200
_MOST_CLASSES = 2000
_MOST_LETTERS = 80


@dataclass(frozen=True)
class Mistake:
    """An image that was classified wrongly: its key, the predicted class with its probability, and a small JPEG."""

    key: str
    named: int
    confidence: float
    picture: bytes | None


def evaluation_page(
    evaluation: Evaluation, mistakes: Mapping[int, Sequence[Mistake]], split: str, provenance: Mapping[str, Any]
) -> str:
    """Return the page; `mistakes` maps the index of each worst class to some of its wrongly classified images."""
    chart, marks = reliability_chart(evaluation.bins)
    worst = worst_first(evaluation.per_class)
    ordered = worst + [numbers for numbers in evaluation.per_class if not numbers.rows]
    return render(
        "serve/report/evaluation.html",
        title=f"Evaluation on {split}",
        evaluation=evaluation,
        accuracy_rows=list(_accuracy_rows(evaluation)),
        most_worst=WORST_CLASSES,
        most_mistakes=MISTAKES_SHOWN,
        worst=[_worst_class(evaluation, numbers, mistakes.get(numbers.index, ())) for numbers in worst[:WORST_CLASSES]],
        most_pairs=_MOST_PAIRS,
        pair_rows=[
            (_name(evaluation, pair.true), _name(evaluation, pair.named), pair.count)
            for pair in evaluation.confusions[:_MOST_PAIRS]
        ],
        chart=chart,
        marks=marks,
        bin_rows=[_bin_row(one_bin) for one_bin in evaluation.bins],
        most_classes=_MOST_CLASSES,
        lines=[(numbers, *map(_shortened, evaluation.classes[numbers.index])) for numbers in ordered[:_MOST_CLASSES]],
        facts=provenance,
    )


def _accuracy_rows(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    accuracy, real = evaluation.accuracy, evaluation.real
    yield "top-1", share(accuracy.top1), accuracy.top1_correct, accuracy.rows
    yield f"top-{accuracy.guesses}", share(accuracy.top5), accuracy.top5_correct, accuracy.rows
    if real:
        yield "ReaL top-1", share(real.accuracy), real.correct, real.rows


def _worst_class(evaluation: Evaluation, numbers: ClassNumbers, mistakes: Sequence[Mistake]) -> dict[str, Any]:
    return {
        "name": _name(evaluation, numbers.index),
        "wnid": evaluation.classes[numbers.index][0],
        "numbers": numbers,
        "mistakes": [
            {
                "key": _shortened(mistake.key),
                "named": _name(evaluation, mistake.named),
                "confidence": mistake.confidence,
                "picture": mistake.picture,
            }
            for mistake in mistakes
        ],
    }


def _bin_row(one_bin: Bin) -> tuple[object, ...]:
    return (
        f"{one_bin.low:.3f}",
        f"{one_bin.high:.3f}",
        one_bin.rows,
        one_bin.correct,
        share(one_bin.accuracy),
        share(one_bin.mean_confidence),
    )


def _name(evaluation: Evaluation, index: int) -> str:
    """Return the first synonym of a class, or its wnid if it has no name."""
    wnid, name = evaluation.classes[index]
    return _shortened(name.split(",")[0].strip() or wnid)


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 3]}..."
