"""The configuration of a run that starts from given weights: what nobody states comes from the card of the weights.

The network (`model.variant`, `depths`, `dims`) and the transform of evaluation (`data.eval_size_px`, `eval_crop_pct`,
`eval_mode`) belong to weights; the size of training images and all else belong to the recipe (DECISIONS, 2026-11-29).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import VARIANTS, ConvNeXtConfig
from convnext_imagenet.model.weight_check import known_variant
from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.source import load_config, stated_values

Sections = dict[str, dict[str, Any]]

_GIVEN = {"model": ("variant", "depths", "dims"), "data": ("eval_size_px", "eval_crop_pct", "eval_mode")}


def load_config_for_weights(name_or_path: str, overrides: Iterable[str], card: ModelCard, run: Path | None) -> Config:
    """Return what `load_config` returns, with the keys that the weights of `card` decide if nothing states them.

    A RUN that has begun keeps the values that it began with: those of `run`/config.toml. Raises ConfigError as
    `load_config` does.
    """
    stated = stated_values(name_or_path, overrides)
    begun = None if run is None else run / "config.toml"
    given = stated_values(str(begun)) if begun is not None and begun.is_file() else given_by(card)
    return config_from_mapping(completed(stated, given))


def keys_from_weights(name_or_path: str, overrides: Iterable[str], resolved: Config) -> list[str]:
    """Return each `section.key=value` of `resolved` that weights decided and that is no default."""
    before = load_config(name_or_path, overrides)
    return [
        f"{section}.{name}={json.dumps(value).strip(chr(34))}"
        for section, names in _GIVEN.items()
        for name in names
        if (value := getattr(getattr(resolved, section), name)) != getattr(getattr(before, section), name)
    ]


def given_by(card: ModelCard) -> Sections:
    """Return the keys that weights decide; depths and dims are [] where they are the variant's own."""
    transform = card.transform
    return {
        "model": _network_keys(card.config),
        "data": {
            "eval_size_px": transform.size_px,
            "eval_crop_pct": transform.crop_pct,
            "eval_mode": transform.mode,
        },
    }


def completed(stated: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the stated sections of keys with those of `given` that weights decide and nothing states.

    A stated variant also states its depths and dims, and a stated training size that of evaluation, which follows it.
    The variant "" states nothing. What is not a section stays as it
    is, for `config_from_mapping` to refuse.
    """
    values = dict(stated)
    for section, names in _GIVEN.items():
        known = values.get(section, {})
        if isinstance(known, Mapping):
            values[section] = _completed_section(known, given[section], names)
    return values


def _completed_section(known: Mapping[str, Any], given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    if known.get("variant"):
        return dict(known)
    stated = {name: value for name, value in known.items() if name != "variant"}
    left = [name for name in names if not (name == "eval_size_px" and "size_px" in known)]
    return {**{name: given[name] for name in left if name in given}, **stated}


def _network_keys(network: ConvNeXtConfig) -> dict[str, Any]:
    variant = VARIANTS[_nearest_variant(network)]
    return {
        "variant": variant.variant,
        "depths": [] if variant.depths == network.depths else list(network.depths),
        "dims": [] if variant.dims == network.dims else list(network.dims),
    }


def _nearest_variant(network: ConvNeXtConfig) -> str:
    """Return the variant with this network's depths, dims and version, or one that differs in depths or dims alone."""
    if name := known_variant(network):
        return name
    named = VARIANTS.get(network.variant)
    if named is not None and named.grn == network.grn:
        return named.variant
    return next(name for name, variant in VARIANTS.items() if variant.grn == network.grn)
