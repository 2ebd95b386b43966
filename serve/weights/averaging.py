"""Averages checkpoints of one network: all alike (uniform), or only those that help on val (greedy).

Source: model soups, arXiv 2203.05482, section 2 and algorithm 1.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.base.files import publish_new
from convnext_imagenet.model.card import ModelCard, inherited_licence
from convnext_imagenet.model.weight_check import describe
from convnext_imagenet.model.weights import weights_payload
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.errors import ServeError

Arrays = Mapping[str, np.ndarray]
Score = Callable[[Checkpoint], int]  # the number of rows of val that a network gets right


@dataclass(frozen=True)
class Soup:
    """An average: its parameters and card, the members' right answers on val and its own; None without records."""

    arrays: Arrays
    card: ModelCard
    members: tuple[Checkpoint, ...]
    correct: tuple[int, ...] | None
    own_correct: int | None


def average_checkpoints(checkpoints: Sequence[Checkpoint], method: str, score: Score | None) -> Soup:
    """Return the average of the checkpoints, computed in float64 and rounded once.

    "uniform" takes all. "greedy" needs `score`: the best first, then each next one if the average with it gets at least
    as many rows right. Raises ServeError for fewer than two checkpoints, for the same file twice, and for networks,
    classes or transforms that differ.
    """
    _check_same(checkpoints)
    correct = None if score is None else tuple(score(checkpoint) for checkpoint in checkpoints)
    members = tuple(checkpoints)
    own: int | None = None
    if method == "greedy":
        if score is None or correct is None:
            raise ServeError("greedy chooses by accuracy on val; pass --records, or --method uniform")
        members, own = _greedy(checkpoints, correct, score)
    arrays = mean_of(members)
    made = dataclasses.replace(checkpoints[0], arrays=arrays)
    if own is None and score is not None:
        own = score(made)
    card = dataclasses.replace(checkpoints[0].card, provenance=_provenance(checkpoints, members, method, correct, own))
    return Soup(arrays, card, members, correct, own)


def mean_of(checkpoints: Sequence[Checkpoint]) -> dict[str, np.ndarray]:
    """Return the mean of each parameter, float32: summed in float64 in the order of their SHA-256."""
    ordered = sorted(checkpoints, key=lambda checkpoint: checkpoint.sha256)
    means = {}
    for name in checkpoints[0].arrays:
        total = np.zeros(checkpoints[0].arrays[name].shape)
        for checkpoint in ordered:
            total += checkpoint.arrays[name]
        means[name] = (total / len(ordered)).astype(np.float32)
    return means


def publish_soup(soup: Soup, out: Path) -> bool:
    """Write the average as a checkpoint; return False if `out` has the same bytes already."""
    return publish_new(out, weights_payload(out, soup.arrays, soup.card))


def _greedy(
    checkpoints: Sequence[Checkpoint], correct: Sequence[int], score: Score
) -> tuple[tuple[Checkpoint, ...], int]:
    order = sorted(range(len(checkpoints)), key=lambda index: (-correct[index], index))
    members, best = [checkpoints[order[0]]], correct[order[0]]
    for index in order[1:]:
        tried = [*members, checkpoints[index]]
        found = score(dataclasses.replace(checkpoints[0], arrays=mean_of(tried)))
        if found >= best:
            members, best = tried, found
    return tuple(members), best


def _check_same(checkpoints: Sequence[Checkpoint]) -> None:
    if len(checkpoints) < 2:
        raise ServeError(f"an average needs at least two checkpoints, {len(checkpoints)} given; give more")
    first = checkpoints[0]
    for index, other in enumerate(checkpoints[1:], 1):
        if any(other.sha256 == earlier.sha256 for earlier in checkpoints[:index]):
            raise ServeError(f"{other.path}: the same weights as another file of this average; leave one out")
        for what, same in (
            (f"network ({describe(other.card.config)})", _network(first.card) == _network(other.card)),
            ("classes", first.card.classes == other.card.classes),
            ("evaluation transform", first.card.transform == other.card.transform),
        ):
            if not same:
                raise ServeError(
                    f"{other.path}: its {what} is not that of {first.path} ({describe(first.card.config)}); average "
                    f"checkpoints that were fine-tuned from the same weights"
                )


def _network(card: ModelCard) -> Any:
    """Return what decides the answers: not the recipe's drop path, nor initial values."""
    return dataclasses.replace(card.config, variant="", drop_path_rate=0.0, layer_scale_init=1.0, head_init_scale=1.0)


def _provenance(
    checkpoints: Sequence[Checkpoint],
    members: Sequence[Checkpoint],
    method: str,
    correct: Sequence[int] | None,
    own: int | None,
) -> dict[str, Any]:
    taken = {member.sha256 for member in members}
    rows = [
        {
            "file": checkpoint.path.name,
            "sha256": checkpoint.sha256,
            "taken": checkpoint.sha256 in taken,
            "val_correct": None if correct is None else correct[index],
        }
        for index, checkpoint in enumerate(checkpoints)
    ]
    licences = [licence for member in members for licence in inherited_licence(member.card).get("licences", ())]
    unique = [licence for index, licence in enumerate(licences) if licence not in licences[:index]]
    average = {"method": method, "val_correct": own, "checkpoints": rows}
    return {"average": average} | ({"licences": unique} if unique else {})
