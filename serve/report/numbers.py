"""Counts in predictions with labels: accuracy by class, confused pairs, calibration. Pure: NumPy in, numbers out.

Everything is counted first and divided once. This file knows nothing of files, networks or pages.
"""

from dataclasses import dataclass

import numpy as np

CALIBRATION_BINS = 15  # as in Guo et al. 2017, so that errors can be compared with published ones


@dataclass(frozen=True)
class ScoredRows:
    """N scored images: label (N,), best classes (N, k) best first, probability of the first (N,), and a key each.

    `losses` are the cross entropies with the labels, float64 (N,).
    """

    labels: np.ndarray
    guesses: np.ndarray
    confidences: np.ndarray
    keys: tuple[str, ...]
    losses: np.ndarray

    @property
    def is_top1(self) -> np.ndarray:
        """Return whether the best class is the true one, bool (N,)."""
        return self.guesses[:, 0] == self.labels

    @property
    def is_top5(self) -> np.ndarray:
        """Return whether the true class is among the five best, or among all if there are fewer, bool (N,)."""
        return (self.guesses[:, :5] == self.labels[:, None]).any(axis=1)


@dataclass(frozen=True)
class ClassNumbers:
    """One class: its images, how many were classified correctly, and for how many images of any class it was predicted.

    `confidence_sum` is the sum, over the class's images, of the probability of the best class.
    """

    index: int
    rows: int
    top1_correct: int
    top5_correct: int
    named: int
    confidence_sum: float

    @property
    def top1(self) -> float | None:
        """Return the fraction of its images whose best class is this one; None without images."""
        return _ratio(self.top1_correct, self.rows)

    @property
    def top5(self) -> float | None:
        """Return the fraction of its images with this class among the five best; None without images."""
        return _ratio(self.top5_correct, self.rows)

    @property
    def precision(self) -> float | None:
        """Return the fraction of the images predicted as this class that belong to it; None if there are none."""
        return _ratio(self.top1_correct, self.named)

    @property
    def mean_confidence(self) -> float | None:
        """Return the mean probability of the best class over its images; None without images."""
        return _ratio(self.confidence_sum, self.rows)


@dataclass(frozen=True)
class Confusion:
    """A true class, another class that was predicted instead, and the number of such images."""

    true: int
    named: int
    count: int


@dataclass(frozen=True)
class Bin:
    """Images whose best class has a probability above `low` and up to `high`."""

    low: float
    high: float
    rows: int
    correct: int
    confidence_sum: float

    @property
    def accuracy(self) -> float | None:
        """Return the fraction of them that is classified correctly; None for an empty bin."""
        return _ratio(self.correct, self.rows)

    @property
    def mean_confidence(self) -> float | None:
        """Return the mean probability of their best classes; None for an empty bin."""
        return _ratio(self.confidence_sum, self.rows)


def count_classes(scored: ScoredRows, classes: int) -> tuple[ClassNumbers, ...]:
    """Return the numbers of each class by index, also of classes without images and of those never predicted."""
    labels, first = scored.labels, scored.guesses[:, 0]
    columns = (
        np.bincount(labels, minlength=classes),
        np.bincount(labels[scored.is_top1], minlength=classes),
        np.bincount(labels[scored.is_top5], minlength=classes),
        np.bincount(first, minlength=classes),
        np.bincount(labels, weights=scored.confidences, minlength=classes),
    )
    return tuple(
        ClassNumbers(index, *values)
        for index, values in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    )


def worst_first(classes: tuple[ClassNumbers, ...]) -> list[ClassNumbers]:
    """Return the classes that have images, lowest top-1 first; more mistakes, then the lower index, win a tie."""
    with_rows = [numbers for numbers in classes if numbers.rows]
    return sorted(with_rows, key=lambda numbers: (numbers.top1, numbers.top1_correct - numbers.rows, numbers.index))


def count_confusions(scored: ScoredRows, classes: int) -> tuple[Confusion, ...]:
    """Return every pair of a true class and a wrong prediction, most frequent first, then by their indices."""
    wrong = ~scored.is_top1
    pairs = scored.labels[wrong].astype(np.int64) * classes + scored.guesses[wrong, 0]
    pairs, counts = np.unique(pairs, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(
        Confusion(pair // classes, pair % classes, count)
        for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    )


def count_bins(scored: ScoredRows, bins: int = CALIBRATION_BINS) -> tuple[Bin, ...]:
    """Return the images by the probability of their best class, in `bins` bins of equal width, (low, high]."""
    confidences = scored.confidences.astype(np.float64)
    bin_of_row = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(bin_of_row, minlength=bins).tolist()
    correct = np.bincount(bin_of_row[scored.is_top1], minlength=bins).tolist()
    sums = np.bincount(bin_of_row, weights=confidences, minlength=bins).tolist()
    return tuple(Bin(k / bins, (k + 1) / bins, rows[k], correct[k], sums[k]) for k in range(bins))


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Return the expected calibration error: the mean distance between accuracy and confidence, over the images.

    Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599), equation 3, with its 15 bins:
    the sum over bins of n_bin / n * |accuracy - confidence|, which is |correct - sum of confidences| / n.
    """
    return sum(abs(b.correct - b.confidence_sum) for b in bins) / sum(b.rows for b in bins)


def worst_mistakes(scored: ScoredRows, index: int, most: int) -> list[int]:
    """Return the rows of up to `most` wrongly classified images of class `index`: most confident first."""
    rows = np.flatnonzero(~scored.is_top1 & (scored.labels == index))
    return rows[np.argsort(-scored.confidences[rows], kind="stable")][:most].tolist()


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
