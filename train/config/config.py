"""Typed configuration: from nested mappings to frozen sections, every value checked, and the rules between keys.

The sections and their keys are in `sections.py`. This module must not know TOML, presets, records or MindSpore.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from convnext_imagenet.train.config.faults import Fault, fault, join_faults, refuse
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
from convnext_imagenet.train.config.unknown import unknown_key, unknown_section, without_section
from convnext_imagenet.train.errors import ConfigError

_TYPE_NAMES: Mapping[Any, str] = types.MappingProxyType(
    {int: "whole number", float: "finite number", str: "string", bool: "true or false"}
)
_INT_LIMIT = 2**63  # the whole numbers that every reader of TOML takes


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


@dataclass(frozen=True)
class ReadConfig:
    """A configuration with the default for every key whose value is at fault, and the faults."""

    config: Config
    faults: tuple[Fault, ...]


def config_from_mapping(values: Mapping[str, Any]) -> Config:
    """Return the configuration that `values` (sections of keys) states, with defaults for the other keys.

    Raises ConfigError, which names every fault: an unknown section or key, a wrong type, a value out of range, and
    keys that contradict each other.
    """
    read = read_mapping(values)
    refuse(join_faults(read.faults, contradictions(read.config)))
    return read.config


def read_mapping(values: Mapping[str, Any]) -> ReadConfig:
    """Return the configuration that `values` states, and the faults of its names and single values."""
    sections = {section.name: section.type for section in fields(Config)}
    built, faults = {}, []
    for name, content in values.items():
        if not isinstance(content, Mapping):
            faults.append(_no_section(name, content, is_known=name in sections))
        elif name not in sections:
            faults += unknown_section(name, content, dotted_keys())
        else:
            built[name], found = _read_section(name, sections[name], content)
            faults += found
    return ReadConfig(Config(**built), tuple(faults))


def dotted_keys() -> dict[str, Any]:
    """Return every key as `section.key` with its type."""
    sections: list[tuple[str, Any]] = [(section.name, section.type) for section in fields(Config)]
    return {f"{name}.{declared.name}": declared.type for name, kind in sections for declared in fields(kind)}


def dotted_values(config: Config) -> dict[str, Any]:
    """Return every value as `section.key`; tuples become lists, as in a file."""
    return {
        f"{section.name}.{name}": list(value) if isinstance(value, tuple) else value
        for section in fields(config)
        for name, value in vars(getattr(config, section.name)).items()
    }


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


def _no_section(name: str, value: Any, is_known: bool) -> Fault:
    """Return the fault of a name outside all sections that has a value of its own."""
    meant = without_section(name, dotted_keys())
    if is_known:
        rule = f"must be a section of keys; write [{name}] above its keys"
        own = [key for key in dotted_keys() if key.startswith(f"{name}.")]
        return fault(f"{name} = {value!r}: {rule}{f', or {meant}' if meant else ''}", *own)
    sections = ", ".join(f"[{section.name}]" for section in fields(Config))
    advice = meant or f"the sections are {sections}"
    return fault(f"{name} = {value!r}: stands in no section; {advice}", *(meant.targets if meant else ()))


def _read_section(section: str, kind: Any, content: Mapping[str, Any]) -> tuple[Any, list[Fault]]:
    keys = {declared.name: declared for declared in fields(kind)}
    built, faults = {}, []
    for name, value in content.items():
        if name not in keys:
            faults.append(unknown_key(section, name, dotted_keys()))
            continue
        try:
            built[name] = _checked(f"{section}.{name}", keys[name], value)
        except ConfigError as error:
            faults.append(fault(str(error), f"{section}.{name}"))
    return kind(**built), faults


def _checked(name: str, declared: Field, value: Any) -> Any:
    if isinstance(value, Mapping):
        section, _, key = name.partition(".")
        raise ConfigError(f"[{name}]: is a key, not a section; write {key} = ... below [{section}]")
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
    if type(value) is int and not -_INT_LIMIT <= value < _INT_LIMIT:  # not isinstance: True is an int, too
        raise ConfigError(f"{name}: is a whole number of {value.bit_length()} bits; must be in [-2**63, 2**63)")
    if kind is float and type(value) is int:
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


def contradictions(config: Config) -> list[Fault]:
    """Return the faults of keys that contradict each other, whatever the records and devices are."""
    return [
        *_schedule_faults(config.schedule, config.train.epochs),
        *_batch_faults(config.data.global_batch_size, config.optimizer.accumulate_steps, config.mix),
        *_precision_faults(config.precision),
        *_balance_faults(config.data),
    ]


def _schedule_faults(schedule: ScheduleSection, epochs: int) -> list[Fault]:
    faults = []
    if schedule.warmup_epochs >= epochs:
        faults.append(
            fault(
                f"schedule.warmup_epochs = {schedule.warmup_epochs}: must be less than train.epochs = {epochs}; "
                f"pass --set schedule.warmup_epochs=0, or more train.epochs",
                *("schedule.warmup_epochs", "train.epochs"),
            )
        )
    for low in ("warmup_lr", "min_lr"):
        if getattr(schedule, low) > schedule.base_lr:
            faults.append(
                fault(
                    f"schedule.{low} = {getattr(schedule, low)}: must not exceed schedule.base_lr = "
                    f"{schedule.base_lr}; pass --set schedule.{low}=0, or a higher schedule.base_lr",
                    *(f"schedule.{low}", "schedule.base_lr"),
                )
            )
    return faults


def _batch_faults(batch: int, accumulate_steps: int, mix: MixSection) -> list[Fault]:
    """Return the fault of a batch that no number of devices can divide; `divide_batch` checks the rest."""
    micro_batches = max(1, accumulate_steps)
    multiple = 2 * micro_batches if micro_batches > 1 or mix.is_on else 1
    if batch % multiple == 0:
        return []
    way_out = f"pass --set data.global_batch_size={_nearest_multiple(batch, multiple)}"
    keys = ("data.global_batch_size", "optimizer.accumulate_steps")
    if micro_batches == 1:
        text = (
            f"data.global_batch_size = {batch}: mixup and cutmix pair the rows of a batch, so it must be even; "
            f"{way_out}, or --set mix.prob=0"
        )
        return [fault(text, *keys, "mix.prob", "mix.mixup_alpha", "mix.cutmix_alpha", "mix.cutmix_minmax")]
    text = (
        f"optimizer.accumulate_steps = {micro_batches}: micro-batches take pairs of a batch's rows, so "
        f"data.global_batch_size = {batch} must be a multiple of {multiple}; {way_out}"
    )
    return [fault(text, *keys)]


def _nearest_multiple(value: int, of: int) -> int:
    return max(of, round(value / of) * of)


def _balance_faults(data: DataSection) -> list[Fault]:
    faults = []
    if data.balance_power and data.class_weight_power:
        text = (
            f"data.balance_power = {data.balance_power} and data.class_weight_power = {data.class_weight_power}: both "
            f"correct for rare classes; pass --set data.class_weight_power=0, or --set data.balance_power=0"
        )
        faults.append(fault(text, "data.class_weight_power"))
    if data.balance_power and data.shuffle_block_rows:
        text = (
            f"data.shuffle_block_rows = {data.shuffle_block_rows}: data.balance_power draws single rows, not blocks; "
            f"pass --set data.shuffle_block_rows=0"
        )
        faults.append(fault(text, "data.shuffle_block_rows"))
    return faults


def _precision_faults(precision: PrecisionSection) -> list[Fault]:
    if precision.level != "O0" or precision.loss_scale == "none":
        return []
    text = (
        f'precision.loss_scale = "{precision.loss_scale}": must be "none" with precision.level = "O0", because '
        f"float32 needs no loss scale; pass --set precision.loss_scale=none or another precision.level"
    )
    return [fault(text, "precision.loss_scale", "precision.level")]
