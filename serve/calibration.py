"""What an evaluated split says about a network's scores: how often they are right, and which sets hold the true class.

The calibrated score is an isotonic regression of "the best class is right" on its probability. The conformal set holds
the classes above one threshold of probability (Sadinle et al. 2019, "Least Ambiguous Set-Valued Classifiers",
arXiv 1609.00451), and always the best class. Its coverage holds for images like those of the split.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.serve.errors import ServeError

_PREDICTIONS = "predictions"  # of a report: see report/folder.py, which this file must not import
_SAME_IN_BOTH = ("model", "transform", "classes", "flip")  # keys of the plans


@dataclass(frozen=True)
class Calibration:
    """Probabilities of the best class, ascending, with how often such a class is right; and the sets' threshold."""

    scores: np.ndarray
    accuracies: np.ndarray
    threshold: float

    def calibrated(self, scores_N: np.ndarray) -> np.ndarray:
        """Return the share of right answers at these probabilities of the best class, (N,), between the known ones."""
        return np.interp(scores_N.astype(np.float64), self.scores, self.accuracies)

    def sets(self, probabilities_NK: np.ndarray) -> list[np.ndarray]:
        """Return for each row the classes of its set, best first."""
        order_NK = np.argsort(-probabilities_NK, axis=1, kind="stable")
        sizes_N = np.maximum(1, (probabilities_NK >= np.float32(self.threshold)).sum(axis=1))
        return [order[:size] for order, size in zip(order_NK, sizes_N.tolist(), strict=True)]


def calibrate(scores_N: np.ndarray, is_right_N: np.ndarray, true_N: np.ndarray, coverage: float) -> Calibration:
    """Return the calibration of N images.

    `scores_N` are the probabilities of the best classes, `true_N` those of the true classes, 0 where they are not
    known. Raises ServeError when so high a coverage does not follow from them.
    """
    rank = math.ceil((len(true_N) + 1) * coverage)  # of the split conformal method: at least 1 - alpha of n + 1
    threshold = float(np.sort(true_N)[::-1][rank - 1]) if rank <= len(true_N) else 0.0
    if threshold <= 0:
        raise ServeError(
            f"coverage {coverage:g} does not follow from {len(true_N)} evaluated images, of which "
            f"{int((true_N > 0).sum())} have their class among the five best; pass a lower --coverage"
        )
    return Calibration(*_isotonic(scores_N.astype(np.float64), is_right_N.astype(np.float64)), threshold)


def read_calibration(report: Path, plan: dict, coverage: float) -> tuple[Calibration, str]:
    """Return the calibration by the report of an evaluation, and the SHA-256 of the report's predictions.

    Raises ArtefactError for an unfinished report, ServeError for one of another network than that of `plan`.
    """
    folder = report / _PREDICTIONS
    if not folder.is_dir():
        raise ServeError(
            f"{report}: no report of an evaluation; give the directory that `convnext-serve eval --report` wrote"
        )
    manifest = read_finished(folder, "predictions")
    wanted = json.loads(json.dumps({key: plan.get(key) for key in _SAME_IN_BOTH}))  # as stored: tuples become lists
    other = [key for key in _SAME_IN_BOTH if manifest["provenance"].get(key) != wanted[key]]
    if other:
        raise ServeError(
            f"{report}: evaluates another network (differs in: {', '.join(other)}); "
            f"run `convnext-serve eval --report` with this checkpoint and the same options"
        )
    columns = ["label", "top1_score", "correct", "topk"]
    table = pa.concat_tables(read_table(folder / part["name"], columns) for part in manifest["parts"])
    guesses = table["topk"].combine_chunks().flatten()
    classes_Nk, scores_Nk = (
        guesses.field(name).to_numpy().reshape(len(table), -1) for name in ("class_index", "score")
    )
    true_N = np.where(classes_Nk == table["label"].to_numpy()[:, None], scores_Nk, 0).max(axis=1)
    found = calibrate(table["top1_score"].to_numpy(), table["correct"].to_numpy(False), true_N, coverage)
    return found, sha256_file(folder / "_manifest.json")


def _isotonic(x_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the rising function of x that is nearest to y: pools of neighbours that would fall."""
    x_values, place_of = np.unique(x_N, return_inverse=True)
    weights = np.bincount(place_of).astype(np.float64)
    means = np.bincount(place_of, weights=y_N) / weights
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of x values
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        pool = (mean, weight, 1)
        while pools and pools[-1][0] >= pool[0]:
            last = pools.pop()
            total = last[1] + pool[1]
            pool = ((last[0] * last[1] + pool[0] * pool[1]) / total, total, last[2] + pool[2])
        pools.append(pool)
    return x_values, np.repeat([mean for mean, _, _ in pools], [size for _, _, size in pools])
