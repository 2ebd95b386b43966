"""An evaluation as tables and JSON: the contents of `per_class.parquet`, `confusion.parquet` and `summary.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from convnext_imagenet.serve.evaluate import Accuracy, mean_loss
from convnext_imagenet.serve.report.numbers import (
    Bin,
    ClassNumbers,
    Confusion,
    ScoredRows,
    calibration_error,
    count_bins,
    count_classes,
    count_confusions,
)
from convnext_imagenet.serve.report.real_labels import RealAccuracy, RealLabels

_PER_CLASS = pa.schema(
    [
        ("class_index", pa.int32()),
        ("wnid", pa.string()),
        ("name", pa.string()),
        ("rows", pa.int64()),
        ("top1_correct", pa.int64()),
        ("top5_correct", pa.int64()),
        ("top1", pa.float64()),
        ("top5", pa.float64()),
        ("mean_confidence", pa.float64()),
        ("named", pa.int64()),
        ("precision", pa.float64()),
    ]
)
_CONFUSION = pa.schema(
    [
        *(
            (f"{who}_{what}", kind)
            for who in ("true", "named")
            for what, kind in (("index", pa.int32()), ("wnid", pa.string()), ("name", pa.string()))
        ),
        ("count", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """All counts of the predictions of one split; `classes` holds (wnid, name) by index."""

    classes: tuple[tuple[str, str], ...]
    accuracy: Accuracy
    per_class: tuple[ClassNumbers, ...]
    confusions: tuple[Confusion, ...]
    bins: tuple[Bin, ...]
    real: RealAccuracy | None

    @property
    def calibration_error(self) -> float:
        """Return the expected calibration error, 0 to 1."""
        return calibration_error(self.bins)


def count_all(scored: ScoredRows, classes: Sequence[tuple[str, str]], real: RealLabels | None) -> Evaluation:
    """Return all counts of one scored image or more. Raises what `RealLabels.count` raises."""
    accuracy = Accuracy(
        rows=len(scored.labels),
        top1_correct=int(scored.is_top1.sum()),
        top5_correct=int(scored.is_top5.sum()),
        loss=mean_loss(scored.losses),
        guesses=min(5, len(classes)),
    )
    return Evaluation(
        classes=tuple(classes),
        accuracy=accuracy,
        per_class=count_classes(scored, len(classes)),
        confusions=count_confusions(scored, len(classes)),
        bins=count_bins(scored),
        real=real.count(scored) if real else None,
    )


def per_class_table(evaluation: Evaluation) -> pa.Table:
    """Return one row per class, by index; a fraction is null if it would divide by zero."""
    rows = [
        {
            "class_index": numbers.index,
            "wnid": wnid,
            "name": name,
            **{field: getattr(numbers, field) for field in _PER_CLASS.names[3:]},
        }
        for numbers, (wnid, name) in zip(evaluation.per_class, evaluation.classes, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=_PER_CLASS)


def confusion_table(evaluation: Evaluation) -> pa.Table:
    """Return one row per pair of a true class and a wrong prediction that occurs, most frequent first."""
    rows = []
    for pair in evaluation.confusions:
        row: dict[str, Any] = {"count": pair.count}
        for who, index in (("true", pair.true), ("named", pair.named)):
            wnid, name = evaluation.classes[index]
            row |= {f"{who}_index": index, f"{who}_wnid": wnid, f"{who}_name": name}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_CONFUSION)


def summary_json(evaluation: Evaluation, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts and their fractions as JSON; `provenance` names what was evaluated."""
    accuracy, real = evaluation.accuracy, evaluation.real
    return {
        "provenance": dict(provenance),
        "rows": accuracy.rows,
        "top1_correct": accuracy.top1_correct,
        "top5_correct": accuracy.top5_correct,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "top5_guesses": accuracy.guesses,
        "loss": accuracy.loss,
        "real": real
        and {
            "rows": real.rows,
            "correct": real.correct,
            "without_labels": real.unlabelled,
            "accuracy": real.accuracy,
        },
        "expected_calibration_error": evaluation.calibration_error,
        "calibration_bins": [
            {
                "above": one_bin.low,
                "up_to": one_bin.high,
                "rows": one_bin.rows,
                "correct": one_bin.correct,
                "accuracy": one_bin.accuracy,
                "mean_confidence": one_bin.mean_confidence,
            }
            for one_bin in evaluation.bins
        ],
    }
