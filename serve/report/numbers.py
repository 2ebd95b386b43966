"""What a table of predictions with labels says: classes, confused pairs, calibration. Pure: NumPy in, numbers out.

Everything is counted first and divided once. This file knows nothing of files, networks or pages.
"""

from dataclasses import dataclass

import numpy as np

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ScoredRows:
    """ScoredRows images: what is true, the best classes (N, k) best first, the probability of the first, and a key."""

    labels: np.ndarray
    guesses: np.ndarray
    confidences: np.ndarray
    keys: tuple[str, ...]

    @property
    def is_top1(self) -> np.ndarray:
        """Whether the best class is the true one (N)."""
        return self.guesses[:, 0] == self.labels

    @property
    def is_top5(self) -> np.ndarray:
        """Whether the true class is among the five best, or among all where the network knows fewer (N)."""
        return (self.guesses[:, :5] == self.labels[:, None]).any(axis=1)


@dataclass(frozen=True)
class ClassNumbers:
    """One class: its images, how many of them were right, and how often the network named it for any image.

    `confidence_sum` adds up the probability of the first answer over the class's images.
    """

    index: int
    rows: int
    top1_correct: int
    top5_correct: int
    named: int
    confidence_sum: float

    @property
    def top1(self) -> float | None:
        """The fraction of its images that were named right; None without images."""
        return _ratio(self.top1_correct, self.rows)

    @property
    def top5(self) -> float | None:
        """The fraction of its images with the true class among the five best; None without images."""
        return _ratio(self.top5_correct, self.rows)

    @property
    def precision(self) -> float | None:
        """The fraction of the images named so that are of this class; None when it was never named."""
        return _ratio(self.top1_correct, self.named)

    @property
    def mean_confidence(self) -> float | None:
        """The mean probability of the first answer over its images; None without images."""
        return _ratio(self.confidence_sum, self.rows)


@dataclass(frozen=True)
class Confusion:
    """A true class, another one that the network named instead, and for how many images."""

    true: int
    named: int
    count: int


@dataclass(frozen=True)
class Bin:
    """Images whose first answer has a probability above `low` and up to `high`."""

    low: float
    high: float
    rows: int
    correct: int
    confidence_sum: float

    @property
    def accuracy(self) -> float | None:
        """The fraction of them that is right; None for an empty bin."""
        return _ratio(self.correct, self.rows)

    @property
    def mean_confidence(self) -> float | None:
        """The mean probability of their first answers; None for an empty bin."""
        return _ratio(self.confidence_sum, self.rows)


def count_classes(scored: ScoredRows, classes: int) -> tuple[ClassNumbers, ...]:
    """The numbers of each class by index, those without images and those never named included."""
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
    """The classes that have images, the lowest top-1 first; among equals more mistakes, then the lower index."""
    with_rows = [numbers for numbers in classes if numbers.rows]
    return sorted(with_rows, key=lambda numbers: (numbers.top1, numbers.top1_correct - numbers.rows, numbers.index))


def count_confusions(scored: ScoredRows, classes: int) -> tuple[Confusion, ...]:
    """Every pair of a true class and a wrong answer, the most frequent first, then by true and by named index."""
    wrong = ~scored.is_top1
    pairs = scored.labels[wrong].astype(np.int64) * classes + scored.guesses[wrong, 0]
    pairs, counts = np.unique(pairs, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(
        Confusion(pair // classes, pair % classes, count)
        for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    )


def count_bins(scored: ScoredRows, bins: int = CALIBRATION_BINS) -> tuple[Bin, ...]:
    """First answers by their probability in `bins` bins of equal width, each open below and closed above."""
    confidences = scored.confidences.astype(np.float64)
    bin_of_row = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = np.bincount(bin_of_row, minlength=bins).tolist()
    correct = np.bincount(bin_of_row[scored.is_top1], minlength=bins).tolist()
    sums = np.bincount(bin_of_row, weights=confidences, minlength=bins).tolist()
    return tuple(Bin(k / bins, (k + 1) / bins, rows[k], correct[k], sums[k]) for k in range(bins))


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """The expected calibration error: how far accuracy and confidence are apart, on average over the images.

    Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599), equation 3, with its 15 bins:
    the sum over bins of n_bin / n * |accuracy - confidence|, which is |correct - sum of confidences| / n.
    """
    return sum(abs(b.correct - b.confidence_sum) for b in bins) / sum(b.rows for b in bins)


def worst_mistakes(scored: ScoredRows, index: int, most: int) -> list[int]:
    """Return the rows of up to `most` misnamed images of class `index`: the surest first, then in their order."""
    rows = np.flatnonzero(~scored.is_top1 & (scored.labels == index))
    return rows[np.argsort(-scored.confidences[rows], kind="stable")][:most].tolist()


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
