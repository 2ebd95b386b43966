"""Doubtful labels by confident learning (Northcutt, Jiang and Chuang, JAIR 2021), from out-of-sample probabilities.

A class's threshold is the mean probability that its own images get for it. An image counts as another class if its
probability for that class reaches the threshold there, and no other class that reaches its own has a higher one. Pure:
probabilities come in parts, so that those of all images need not fit into memory.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

# Raise when the same probabilities give other doubts.
LABELS_VERSION = 1
Parts = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Doubts:
    """Rows whose labels are doubtful: numbers, the likely class, and the margin, most doubtful first.

    `margins` are the probability of the label minus the highest one of another class: -1 is the most doubtful.
    `joint` counts rows by label and confident class, int64 (classes, classes).
    """

    numbers: np.ndarray
    suggested: np.ndarray
    margins: np.ndarray
    joint: np.ndarray


def class_thresholds(labels: np.ndarray, parts: Parts, classes: int) -> np.ndarray:
    """Return the mean probability of each class over the rows with this label, float64; 1 for a class without rows."""
    sums, counts = np.zeros(classes), np.zeros(classes)
    for numbers, probabilities in parts():
        own = labels[numbers]
        sums += np.bincount(own, probabilities[np.arange(len(own)), own], classes)
        counts += np.bincount(own, minlength=classes)
    return np.divide(sums, counts, out=np.ones(classes), where=counts > 0)


def find_doubts(labels: np.ndarray, parts: Parts, classes: int) -> Doubts:
    """Return the doubtful rows; `labels` int (rows,), `parts()` yields row numbers and probabilities (n, classes)."""
    thresholds = class_thresholds(labels, parts, classes)
    joint = np.zeros((classes, classes), np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for numbers, probabilities in parts():
        own = labels[numbers]
        reaching = np.where(probabilities >= thresholds, probabilities, -1.0)
        confident = reaching.argmax(1)
        is_sure = reaching.max(1) >= 0
        np.add.at(joint, (own[is_sure], confident[is_sure]), 1)
        is_doubtful = is_sure & (confident != own)
        found.append((numbers[is_doubtful], confident[is_doubtful], _margins(probabilities, own)[is_doubtful]))
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    numbers, suggested, margins = (np.concatenate(column) for column in zip(empty, *found, strict=True))
    order = np.lexsort((numbers, margins))
    return Doubts(numbers[order], suggested[order], margins[order], joint)


def class_noise(joint: np.ndarray) -> np.ndarray:
    """Return the part of each label's confident rows that are counted as another class, float64; 0 without rows."""
    rows = joint.sum(1)
    return np.divide(rows - joint.diagonal(), rows, out=np.zeros(len(rows)), where=rows > 0)


def _margins(probabilities: np.ndarray, own: np.ndarray) -> np.ndarray:
    rows = np.arange(len(own))
    others = probabilities.copy()
    others[rows, own] = -1
    return (probabilities[rows, own] - others.max(1)).astype(np.float64)
