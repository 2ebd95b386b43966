"""What an audit counts: `summary.json`, and the noise of each class. Pure: pairs, flags and doubts in, numbers out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from convnext_imagenet.records.audit.flags import Flag, count_kinds
from convnext_imagenet.records.audit.labels import Doubts, class_noise
from convnext_imagenet.records.audit.pairs import EQUAL, Found, are_other_labels

# Of all images. 13,394 photos have 0.03 %, 1,000 of them shrunk to 8 px 0.2, but 300 digits of 8 px have 52 %, and
# 59 when they are enlarged to 64 px. 10 % of CIFAR-100's test images have real copies (Barz and Denzler, 2020).
_MOST_NEAR = 0.2
_FEW_NEAR = 50  # images that a person looks at in a minute


@dataclass(frozen=True)
class Noise:
    """Doubtful labels of one split, whose first image has the number `first`; `rows` counts its images by class."""

    split: str
    first: int
    doubts: Doubts
    rows: np.ndarray


def summarise(
    rows: pa.Table, found: Found, flags: Sequence[Flag], noise: Sequence[Noise], wnids: Sequence[str], decoded: int
) -> dict[str, Any]:
    """Return the counts as JSON; `rows` is the table of the source, `decoded` how many images were decoded."""
    splits, labels = rows["split"].to_pylist(), rows["label"].to_pylist()
    names = sorted(set(splits))
    kinds = Counter(pair.kind for pair in found.pairs)
    return {
        "images": {name: splits.count(name) for name in names},
        "decoded": decoded,
        "pairs": {
            "total": len(found.pairs),
            "kinds": dict(kinds),
            "images_in_near_pairs": len(_near(found)),
            "across_splits": sum(splits[pair.first] != splits[pair.second] for pair in found.pairs),
            "different_labels": sum(are_other_labels(labels, pair) for pair in found.pairs),
        },
        "candidates": {"confirmed_or_refused": found.candidates, "left_out": found.left_out, "flat": found.flat},
        "flags": count_kinds(flags),
        "leaks": {
            name: sum(splits[flag.number] == name and "leak" in (flag.kind, *flag.also) for flag in flags)
            for name in names
        },
        "label_noise": {each.split: _class_noise(each, wnids) for each in noise},
    }


def sure_copies(found: Found, images: int) -> list[tuple[int, int]]:
    """Return the pairs of numbers that are copies: equal pixels, and near ones unless so many images look alike."""
    trusts_near = not is_alike(len(_near(found)), images)
    return [(pair.first, pair.second) for pair in found.pairs if trusts_near or pair.kind == EQUAL]


def is_alike(near: int, images: int) -> bool:
    """Return whether so many images are near others that these may be no copies, but alike, as digits are."""
    return near > max(_FEW_NEAR, _MOST_NEAR * images)


def _near(found: Found) -> set[int]:
    return {number for pair in found.pairs if pair.kind != EQUAL for number in (pair.first, pair.second)}


def noise_lines(noise: Sequence[Noise], wnids: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """Return class, the class that its doubtful images look like, rows, doubtful rows; the noisiest class first."""
    lines = []
    for each in noise:
        for label, row in enumerate(each.doubts.joint):
            others = row.copy()
            others[label] = 0
            if others.sum():
                line = (f"{each.split} {wnids[label]}", wnids[int(others.argmax())], int(each.rows[label]))
                lines.append((*line, int(others.sum())))
    return sorted(lines, key=lambda line: (-line[3] / line[2], line[0]))


def _class_noise(noise: Noise, wnids: Sequence[str]) -> dict[str, float]:
    return {wnid: round(float(value), 6) for wnid, value in zip(wnids, class_noise(noise.doubts.joint), strict=True)}
