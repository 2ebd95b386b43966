"""What is wrong with an image, and what that suggests. Pure: pairs, doubts and measures in, one flag an image out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from convnext_imagenet.records.audit.features import outliers
from convnext_imagenet.records.audit.labels import Doubts
from convnext_imagenet.records.audit.pairs import Pair, are_other_labels

# Raise when the same pairs and doubts give other flags.
FLAGS_VERSION = 1
Decision = Literal["keep", "drop", "relabel"]
DECISIONS: tuple[Decision, ...] = ("keep", "drop", "relabel")
KINDS = {
    "unreadable": "the image cannot be decoded",
    "leak": "a copy of it is in another split",
    "conflict": "a copy of it has another label",
    "copy": "a copy of an image with a smaller key and the same label in the same split",
    "label": "the network is confident of another class",
    "blank": "nearly one gray level",
    "outlier": "its features are far from those of every class",
    "tiny_content": "a uniform border takes more than 70 % of the area",
    "extreme_aspect": "one side is more than four times the other",
}  # in the order of severity: an image with several is listed under the first
LEAVES_EVALUATION = ("unreadable", "leak", "conflict", "copy", "label", "blank")
BLANK_CONTRAST = 2.0  # standard deviation in levels of 255
_TINY_CONTENT = 0.3
_EXTREME_ASPECT = 4.0
_OUTLIER = 4.0  # robust standard deviations


@dataclass(frozen=True)
class Flag:
    """A flagged image, by number: its worst kind, the others, a score (0 is the worst), the likely class, its partner.

    `proposal` is what the audit suggests for building records again: drop, keep, or nothing, for a person to look at.
    """

    number: int
    kind: str
    also: tuple[str, ...]
    score: float
    suggested: int | None
    partner: int | None
    proposal: str


@dataclass(frozen=True)
class _Reason:
    kind: str
    score: float
    suggested: int | None = None
    partner: int | None = None


def make_flags(
    rows: pa.Table,
    measures: pa.Table,
    pairs: Sequence[Pair],
    doubts: Iterable[tuple[Doubts, int]],
    distances: np.ndarray | None = None,
) -> list[Flag]:
    """Return the flags in order of the images.

    `rows` and `measures` are the tables of the source and of the parts; each of the `doubts` comes with the number of
    the first image of its split. `distances` are those of the images' features to the nearest class, float64, NaN
    without features.
    """
    reasons: dict[int, list[_Reason]] = {}
    far = [] if distances is None else _outliers(rows, distances)
    for number, reason in [*_odd(measures), *_copies(rows, pairs), *_doubtful(doubts), *far]:
        reasons.setdefault(number, []).append(reason)
    splits = rows["split"].to_pylist()
    order = {kind: place for place, kind in enumerate(KINDS)}
    flags = []
    for number, found in sorted(reasons.items()):
        found.sort(key=lambda reason: (order[reason.kind], reason.score))
        kinds = tuple(dict.fromkeys(reason.kind for reason in found))
        suggested = next((reason.suggested for reason in found if reason.suggested is not None), None)
        partner = next((reason.partner for reason in found if reason.partner is not None), None)
        proposal = _proposal(kinds, splits[number])
        flags.append(Flag(number, kinds[0], kinds[1:], found[0].score, suggested, partner, proposal))
    return flags


def _proposal(kinds: tuple[str, ...], split: str) -> str:
    if {"copy", "blank", "unreadable"} & set(kinds):
        return "drop"
    if "leak" in kinds:  # published accuracies are over all of val, so copies leave train
        return "drop" if split == "train" else "keep"
    return ""


def _odd(measures: pa.Table) -> Iterable[tuple[int, _Reason]]:
    names = ("error", "contrast", "content", "width", "height")
    columns = zip(*(measures[name].to_pylist() for name in names), strict=True)
    for number, (error, contrast, content, width, height) in enumerate(columns):
        if error is not None:
            yield number, _Reason("unreadable", 0.0)
            continue
        aspect = max(width, height) / min(width, height)
        if contrast < BLANK_CONTRAST:
            yield number, _Reason("blank", contrast)
        elif content < _TINY_CONTENT:
            yield number, _Reason("tiny_content", content)
        if aspect > _EXTREME_ASPECT:
            yield number, _Reason("extreme_aspect", 1 / aspect)


def _copies(rows: pa.Table, pairs: Sequence[Pair]) -> Iterable[tuple[int, _Reason]]:
    splits, labels, keys = (rows[name].to_pylist() for name in ("split", "label", "key"))
    for pair in pairs:
        for own, other in ((pair.first, pair.second), (pair.second, pair.first)):
            if splits[own] != splits[other]:
                yield own, _Reason("leak", pair.distance, None, other)
            if are_other_labels(labels, pair):
                yield own, _Reason("conflict", pair.distance, None, other)
            elif splits[own] == splits[other] and (keys[own], own) > (keys[other], other):
                yield own, _Reason("copy", pair.distance, None, other)


def _doubtful(doubts: Iterable[tuple[Doubts, int]]) -> Iterable[tuple[int, _Reason]]:
    for found, first in doubts:
        columns = (found.numbers.tolist(), found.suggested.tolist(), found.confidences.tolist())
        for number, suggested, confidence in zip(*columns, strict=True):
            yield first + number, _Reason("label", confidence, suggested)


def _outliers(rows: pa.Table, distances: np.ndarray) -> Iterable[tuple[int, _Reason]]:
    """Yield images far from every class, as seen from their own split: a network knows train better than val."""
    splits = np.asarray(rows["split"].to_pylist())
    for split in sorted(set(splits.tolist())):
        numbers = np.flatnonzero(splits == split)
        places, above = outliers(distances[numbers], _OUTLIER)
        for number, far in zip(numbers[places].tolist(), above.tolist(), strict=True):
            yield number, _Reason("outlier", 1 / far)


def worst_first(rows: pa.Table, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs over splits with other labels, over splits, with other labels, and the rest; nearest first."""
    splits, labels = rows["split"].to_pylist(), rows["label"].to_pylist()

    def rank(pair: Pair) -> tuple[object, ...]:
        is_leak, is_conflict = splits[pair.first] != splits[pair.second], are_other_labels(labels, pair)
        return (not is_leak, not is_conflict, pair.distance, pair.first, pair.second)

    return sorted(pairs, key=rank)


def count_kinds(flags: Sequence[Flag]) -> Mapping[str, int]:
    """Return the number of images with each kind of flag; an image with several counts for each."""
    return {kind: sum(kind == flag.kind or kind in flag.also for flag in flags) for kind in KINDS}
