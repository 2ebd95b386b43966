"""Chooses the initial weights: drawn from the seed, or given by a file, with a new head if the classes differ.

This module must not read files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, Shape, init_parameters, parameter_shapes
from convnext_imagenet.model.weight_check import describe, shape_faults
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.sections import ModelSection
from convnext_imagenet.train.errors import ConfigError, TrainError

_HEAD_PREFIX = "head."
_HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True)
class GivenWeights:
    """A weights file to start from: its path, its parameters by name and its card."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    card: ModelCard


@dataclass(frozen=True)
class InitialWeights:
    """Every parameter that training starts from, their origin in words, and warnings about them.

    `origin` is empty when all parameters are drawn from the seed. `keeps_head`: the given head
    is used, its classes in their order.
    """

    arrays: dict[str, np.ndarray]
    origin: str = ""
    warnings: tuple[str, ...] = ()
    keeps_head: bool = False


def initial_weights(config: Config, card: ModelCard, given: GivenWeights | None) -> InitialWeights:
    """Return the initial weights of the network of `card`: drawn from the seed, or `given`.

    A given head is kept only if it has the card's classes, compared by wnid; its rows are put in the card's order. Any
    other head is drawn (DECISIONS, 2026-11-26). Raises TrainError for weights of another network, ConfigError for
    frozen stages without given weights.
    """
    drawn = init_parameters(card.config, config.train.seed)
    if given is None:
        _check_nothing_frozen(config.model.frozen_stages)
        return InitialWeights(drawn)
    _check_network(given, card.config, config.model)
    known, wanted = ([wnid for wnid, _ in some_card.classes] for some_card in (given.card, card))
    is_untrained = given.card.provenance.get("imported", {}).get("head") == "new"
    is_linear = not given.card.config.head_projection
    keeps_head = sorted(known) == sorted(wanted) and not is_untrained and is_linear
    if keeps_head:
        rows = [known.index(wnid) for wnid in wanted]
        head = {name: given.arrays[name][rows] for name in _HEAD}
        origin = f"{len(drawn)} of {len(drawn)} tensors from {given.path}; its {len(wanted)} classes are the records'"
    else:
        head = {name: drawn[name] for name in _HEAD}
        why = "the given head is untrained" if is_untrained else _change(known, wanted)
        if not is_linear:
            why = "the given head compares embeddings"
        origin = f"{len(drawn) - len(head)} of {len(drawn)} tensors from {given.path}; head.* new: {why}"
    body = {name: array for name, array in given.arrays.items() if not name.startswith(_HEAD_PREFIX)}
    return InitialWeights({**body, **head}, origin, _warnings(given, card), keeps_head and known == wanted)


def _check_nothing_frozen(stages: int) -> None:
    if stages:
        raise ConfigError(
            f"model.frozen_stages = {stages}: without --init-from these stages would keep random weights; "
            f"pass --init-from WEIGHTS, or --set model.frozen_stages=0"
        )


def _check_network(given: GivenWeights, network: ConvNeXtConfig, section: ModelSection) -> None:
    """Raise TrainError, listing what differs outside the head, unless the weights are this network's."""
    theirs, ours = (_body_shapes(config) for config in (given.card.config, network))
    if faults := shape_faults(theirs, ours):
        raise TrainError(
            f"--init-from {given.path}: weights of {describe(given.card.config)} do not fit {describe(network)}: "
            f"{', '.join(faults)}; give weights of that network, or leave out "
            f"{' and '.join(_contradicting(given.card.config, network, section))}: the weights know their own network "
            f"(the preset finetune states none)"
        )


def _contradicting(theirs: ConvNeXtConfig, ours: ConvNeXtConfig, section: ModelSection) -> list[str]:
    """Return the keys that state another network than the weights', in the form of `--set`."""
    keys = {
        f"model.variant={section.variant}": theirs.grn != ours.grn
        or (theirs.depths != ours.depths and not section.depths)
        or (theirs.dims != ours.dims and not section.dims),
        f"model.depths={list(section.depths)}": theirs.depths != ours.depths and bool(section.depths),
        f"model.dims={list(section.dims)}": theirs.dims != ours.dims and bool(section.dims),
    }
    return [key for key, contradicts in keys.items() if contradicts]


def _body_shapes(config: ConvNeXtConfig) -> dict[str, Shape]:
    return {name: shape for name, shape in parameter_shapes(config).items() if not name.startswith(_HEAD_PREFIX)}


def _change(known: Sequence[str], wanted: Sequence[str]) -> str:
    """Return the two class counts or, if they are equal, how many of the classes differ."""
    if len(known) != len(wanted):
        return f"{len(known)} -> {len(wanted)} classes"
    return f"{len(set(wanted) - set(known))} of the {len(wanted)} classes differ"


def _warnings(given: GivenWeights, card: ModelCard) -> tuple[str, ...]:
    found = []
    network = given.card.config
    if not network.has_usual_functions:
        found.append(
            f"{given.path} is a network with {network.activation}, epsilon {network.norm_epsilon:g} and "
            f"{network.head_norm_epsilon:g} in its last norm, but this run computes exact GELU and epsilon 1e-06: the "
            f"network must first adapt to them"
        )
    theirs, ours = given.card.transform, card.transform
    if (theirs.mean, theirs.std) == (ours.mean, ours.std):
        return tuple(found)
    return (
        *found,
        f"{given.path} was trained on pixels normalised by mean {theirs.mean} and std {theirs.std}, but this run uses "
        f"{ours.mean} and {ours.std}: the network must first adapt to them",
    )
