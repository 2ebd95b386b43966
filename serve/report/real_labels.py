"""ReaL labels: all classes that are visible in an ImageNet val image, from a second annotation by people.

Beyer et al. 2020, "Are we done with ImageNet?" (arXiv 2006.07159). `real.json` holds a list for each of
ILSVRC2012_val_00000001 to 50000: official class indices, which are the ranks of wnids among the official 1000 in ASCII
order. An image with an empty list is not counted.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.files import read_json, sha256_file
from convnext_imagenet.base.wording import plural
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.report.numbers import ScoredRows

OFFICIAL_IMAGES = 50_000
OFFICIAL_CLASSES = 1000
# SHA-256 of the official 1000 wnids in ASCII order, each followed by a newline.
OFFICIAL_WNIDS_SHA256 = "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"
_KEY = re.compile(r"ILSVRC2012_val_([0-9]{8})")
_WITHOUT = "or leave out --real"


@dataclass(frozen=True)
class RealAccuracy:
    """Counts over the images that have ReaL labels; `unlabelled` images have none and are not counted."""

    rows: int
    correct: int
    unlabelled: int

    @property
    def accuracy(self) -> float | None:
        """Return the fraction of images whose best class is one of their ReaL labels; None without such images."""
        return self.correct / self.rows if self.rows else None


@dataclass(frozen=True)
class RealLabels:
    """The labels of val image n at index n - 1, the file's SHA-256, and the official index of each class."""

    sha256: str
    labels: tuple[frozenset[int], ...]
    official: tuple[int, ...]

    def count(self, scored: ScoredRows) -> RealAccuracy:
        """Return the ReaL accuracy; labels are found by the number in each key. Raises ServeError for another key."""
        correct = rows = 0
        for key, guess in zip(scored.keys, scored.guesses[:, 0].tolist(), strict=True):
            labels = self.labels[val_number(key) - 1]
            rows += bool(labels)
            correct += self.official[guess] in labels
        return RealAccuracy(rows, correct, len(scored.keys) - rows)


def read_real(path: Path, wnids: Sequence[str]) -> RealLabels:
    """Return the labels in `path` for a network with the classes `wnids`, by index.

    Raises ServeError for a file that is not such a list of 50,000, and for classes that are not the official 1000.
    """
    official = official_indices(wnids)
    content = read_json(path)
    if not isinstance(content, list) or len(content) != OFFICIAL_IMAGES:
        what = f"a list of {len(content):,}" if isinstance(content, list) else f"a JSON {type(content).__name__}"
        raise ServeError(
            f"{path}: holds {what}, not a list of {OFFICIAL_IMAGES:,} lists, one for each val image; "
            f"give the real.json of the ReaL labels, {_WITHOUT}"
        )
    return RealLabels(
        sha256_file(path), tuple(_labels(path, number, entry) for number, entry in enumerate(content, 1)), official
    )


def official_indices(wnids: Sequence[str]) -> tuple[int, ...]:
    """Return the official index of each class. Raises ServeError unless they are the official 1000, in any order.

    A label is the rank of a wnid among all 1000, which a subset does not contain.
    """
    ordered = sorted(wnids)
    if hashlib.sha256("".join(f"{wnid}\n" for wnid in ordered).encode()).hexdigest() != OFFICIAL_WNIDS_SHA256:
        raise ServeError(
            f"--real: the wnids of the network ({plural(len(wnids), 'class')}) are not the official "
            f"{OFFICIAL_CLASSES:,}. ReaL labels are ranks among these, so other classes cannot be compared; give a "
            f"checkpoint of all {OFFICIAL_CLASSES:,}, {_WITHOUT}"
        )
    ranks = {wnid: rank for rank, wnid in enumerate(ordered)}
    return tuple(ranks[wnid] for wnid in wnids)


def val_number(key: str) -> int:
    """Return the number 1 to 50,000 in a key such as ILSVRC2012_val_00000001. Raises ServeError for any other key."""
    match = _KEY.fullmatch(key)
    number = int(match[1]) if match else 0
    if not 1 <= number <= OFFICIAL_IMAGES:
        raise ServeError(
            f"--real: {key[:60]!a} is not the key of a val image (ILSVRC2012_val_00000001 to "
            f"{OFFICIAL_IMAGES:08d}), by which ReaL labels are found; evaluate ImageNet's val split, {_WITHOUT}"
        )
    return number


def _labels(path: Path, number: int, entry: Any) -> frozenset[int]:
    is_list = isinstance(entry, list) and all(type(index) is int for index in entry)
    if not is_list or not all(0 <= index < OFFICIAL_CLASSES for index in entry):
        raise ServeError(
            f"{path}: entry {number} is {str(entry)[:60]!a}, not a list of class indices from 0 to "
            f"{OFFICIAL_CLASSES - 1}; give the real.json of the ReaL labels, {_WITHOUT}"
        )
    return frozenset(entry)
