"""Typed configuration: from nested mappings to frozen sections, every value checked, and the rules between keys.

The sections and their keys are in `sections.py`. This module must not know TOML, presets, records or MindSpore.
"""

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from convnext_imagenet.train.config.rules import NEUTRAL, OUTSIDE_PLAN, rule_of
from convnext_imagenet.train.config.sections import (
    AugmentSection,
    DataSection,
    EmaSection,
    MixSection,
    ModelSection,
    OptimizerSection,
    PrecisionSection,
    ScheduleSection,
    TrainSection,
)
from convnext_imagenet.train.errors import ConfigError

_TYPE_NAMES: Mapping[Any, str] = types.MappingProxyType(
    {int: "whole number", float: "finite number", str: "string", bool: "true or false"}
)


@dataclass(frozen=True)
class Config:
    """One training run, complete."""

    model: ModelSection = field(default_factory=ModelSection)
    data: DataSection = field(default_factory=DataSection)
    augment: AugmentSection = field(default_factory=AugmentSection)
    mix: MixSection = field(default_factory=MixSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    ema: EmaSection = field(default_factory=EmaSection)
    precision: PrecisionSection = field(default_factory=PrecisionSection)
    train: TrainSection = field(default_factory=TrainSection)


def config_from_mapping(values: Mapping[str, Any]) -> Config:
    """Return the configuration that `values` (sections of keys) states, with defaults for the other keys.

    Raises ConfigError for an unknown section or key (naming the nearest), a wrong type, a value out of
    range, or keys that contradict each other.
    """
    sections = {section.name: section for section in fields(Config)}
    built = {}
    for name, content in values.items():
        if name not in sections:
            raise ConfigError(unknown_name("section", name, sections))
        if not isinstance(content, Mapping):
            raise ConfigError(f"{name} = {content!r}: must be a section of keys; write [{name}] above its keys")
        built[name] = _section_from_mapping(name, sections[name].type, content)
    config = Config(**built)
    check_between_keys(config)
    return config


def dotted_keys() -> dict[str, Any]:
    """Return every key as `section.key` with its type."""
    sections: list[tuple[str, Any]] = [(section.name, section.type) for section in fields(Config)]
    return {f"{name}.{declared.name}": declared.type for name, kind in sections for declared in fields(kind)}


def neutral_values(config: Config) -> dict[str, Any]:
    """Return the neutral value of each `section.key` that was declared by `added_later` (DECISIONS, 2026-11-28)."""
    return {
        f"{section.name}.{declared.name}": declared.metadata[NEUTRAL]
        for section in fields(config)
        for declared in fields(getattr(config, section.name))
        if NEUTRAL in declared.metadata
    }


def keys_outside_plan(config: Config) -> frozenset[str]:
    """Return each `section.key` that was declared by `outside_plan`."""
    return frozenset(
        f"{section.name}.{declared.name}"
        for section in fields(config)
        for declared in fields(getattr(config, section.name))
        if OUTSIDE_PLAN in declared.metadata
    )


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return an error text for `name`, with the nearest known name or, if none is near, all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(names)}"
    return f"unknown {what} {name}; {hint}"


def _section_from_mapping(section: str, kind: Any, content: Mapping[str, Any]) -> Any:
    keys = {declared.name: declared for declared in fields(kind)}
    built = {}
    for name, value in content.items():
        if name not in keys:
            raise ConfigError(unknown_name("key", f"{section}.{name}", dotted_keys()))
        built[name] = _checked(f"{section}.{name}", keys[name], value)
    return kind(**built)


def _checked(name: str, declared: Field, value: Any) -> Any:
    typed = _typed(name, declared.type, value)
    rule = rule_of(declared)
    if not rule.holds(typed):
        raise ConfigError(f"{name} = {value!r}: {rule.text}")
    return typed


def _typed(name: str, kind: Any, value: Any) -> Any:
    """Return `value` as `kind`. A whole number may stand for a fraction, and a list for a tuple; nothing else may."""
    if get_origin(kind) is Literal:
        kind = str  # the rule names the words
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} = {value!r}: must be a list of {_TYPE_NAMES[get_args(kind)[0]]}s")
        return tuple(_typed(name, get_args(kind)[0], item) for item in value)
    if kind is float and type(value) is int:  # not isinstance: True is an int, too
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ConfigError(f"{name} = {value!r}: must be {_article(kind)}{_TYPE_NAMES[kind]}")
    return value


def _article(kind: Any) -> str:
    return "" if kind is bool else "a "


def check_network_is_known(model: ModelSection) -> None:
    """Raise ConfigError if the network is still to be taken from weights."""
    if not model.variant:
        raise ConfigError(
            'model.variant = "": this configuration takes the network from trained weights; pass --init-from WEIGHTS, '
            "or --set model.variant=convnext_base to begin with random ones"
        )


def check_between_keys(config: Config) -> None:
    """Raise ConfigError for keys that contradict each other."""
    _check_schedule(config.schedule, config.train.epochs)
    _check_batches(config.data.global_batch_size, config.optimizer.accumulate_steps, config.mix)
    _check_precision(config.precision)


def _check_schedule(schedule: ScheduleSection, epochs: int) -> None:
    if schedule.warmup_epochs >= epochs:
        raise ConfigError(
            f"schedule.warmup_epochs = {schedule.warmup_epochs}: must be less than train.epochs = {epochs}"
        )
    for low in ("warmup_lr", "min_lr"):
        if getattr(schedule, low) > schedule.base_lr:
            raise ConfigError(
                f"schedule.{low} = {getattr(schedule, low)}: must not exceed schedule.base_lr = {schedule.base_lr}"
            )


def _check_batches(batch: int, accumulate_steps: int, mix: MixSection) -> None:
    """Raise ConfigError for a batch that no number of devices can divide; `divide_batch` checks the rest."""
    micro_batches = max(1, accumulate_steps)
    multiple = 2 * micro_batches if micro_batches > 1 or mix.is_on else 1
    if batch % multiple == 0:
        return
    way_out = f"pass --set data.global_batch_size={_nearest_multiple(batch, multiple)}"
    if micro_batches == 1:
        raise ConfigError(
            f"data.global_batch_size = {batch}: mixup and cutmix pair the rows of a batch, so it must be even; "
            f"{way_out}, or --set mix.prob=0"
        )
    raise ConfigError(
        f"optimizer.accumulate_steps = {micro_batches}: micro-batches take pairs of a batch's rows, so "
        f"data.global_batch_size = {batch} must be a multiple of {multiple}; {way_out}"
    )


def _nearest_multiple(value: int, of: int) -> int:
    return max(of, round(value / of) * of)


def _check_precision(precision: PrecisionSection) -> None:
    if precision.level == "O0" and precision.loss_scale != "none":
        raise ConfigError(
            f'precision.loss_scale = "{precision.loss_scale}": must be "none" with precision.level = "O0", because '
            f"float32 needs no loss scale; pass --set precision.loss_scale=none or another precision.level"
        )
