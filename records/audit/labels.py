"""Doubtful labels by confident learning (Northcutt, Jiang and Chuang, JAIR 2021), from out-of-sample probabilities.

A class's threshold is the mean probability that its own images get for it. An image counts as another class if its
probability for that class reaches the threshold there, and no other class that reaches its own has a higher one. An
image that reaches no threshold is doubtful, too, if its label gets less than chance. Pure: probabilities come in parts,
so that those of all images need not fit into memory.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

# Raise when the same probabilities give other doubts.
LABELS_VERSION = 1
Parts = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Doubts:
    """Rows whose labels are doubtful: numbers, the likely class, and the label's probability, most doubtful first.

    `joint` counts rows by label and confident class, int64 (classes, classes).
    """

    numbers: np.ndarray
    suggested: np.ndarray
    confidences: np.ndarray
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
        likely = np.where(is_sure, confident, probabilities.argmax(1))
        confidences = probabilities[np.arange(len(own)), own].astype(np.float64)
        is_doubtful = (likely != own) & (is_sure | (confidences < 1 / classes))
        found.append((numbers[is_doubtful], likely[is_doubtful], confidences[is_doubtful]))
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    numbers, suggested, confidences = (np.concatenate(column) for column in zip(empty, *found, strict=True))
    order = np.lexsort((numbers, confidences))
    return Doubts(numbers[order], suggested[order], confidences[order], joint)


def class_noise(joint: np.ndarray) -> np.ndarray:
    """Return the part of each label's confident rows that are counted as another class, float64; 0 without rows."""
    rows = joint.sum(1)
    return np.divide(rows - joint.diagonal(), rows, out=np.zeros(len(rows)), where=rows > 0)
