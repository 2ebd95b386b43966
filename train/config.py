"""The training configuration: frozen sections, one rule per key, and the rules between keys.

What changes the numbers is a key here; where things are is on the command line. The defaults are the
ConvNeXt paper's (arXiv 2201.03545, table 5), so a TOML file states only what differs. This module must
not know TOML, presets, records or MindSpore.
"""

import difflib
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from convnext_imagenet.train.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """What a key's value must fulfil, in words for the error and as a predicate."""

    text: str
    holds: Callable[[Any], bool]


def key(default: Any, text: str, holds: Callable[[Any], bool]) -> Any:
    """Declare a configuration key: its default and its rule."""
    return field(default=default, metadata={"rule": Rule(text, holds)})


def _is_interval(value: tuple[float, ...]) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1]


def _is_four_or_none(value: tuple[int, ...]) -> bool:
    return value == () or (len(value) == 4 and min(value) >= 1)


_FOUR_OR_NONE = "must be [] for the variant's own, or four whole numbers of at least 1"


@dataclass(frozen=True)
class ModelSection:
    """The network; `depths` and `dims` replace the variant's, `num_classes = 0` takes the records' count."""

    variant: str = key("convnext_tiny", "must name a variant", bool)
    depths: tuple[int, ...] = key((), _FOUR_OR_NONE, _is_four_or_none)
    dims: tuple[int, ...] = key((), _FOUR_OR_NONE, _is_four_or_none)
    num_classes: int = key(0, "must be 0 (as many as the records hold) or at least 2", lambda v: v == 0 or v >= 2)
    drop_path_rate: float = key(0.1, "must be in [0, 1)", lambda v: 0 <= v < 1)
    layer_scale_init: float = key(1e-6, "must be greater than 0", lambda v: v > 0)
    head_init_scale: float = key(1.0, "must be greater than 0", lambda v: v > 0)


@dataclass(frozen=True)
class DataSection:
    """Sizes of what the network sees, in training and in evaluation."""

    size_px: int = key(224, "must be at least 32", lambda v: v >= 32)
    global_batch_size: int = key(4096, "must be at least 1", lambda v: v >= 1)
    eval_size_px: int = key(224, "must be at least 32", lambda v: v >= 32)
    eval_crop_pct: float = key(0.875, "must be in (0, 1]", lambda v: 0 < v <= 1)
    eval_mode: Literal["crop", "squash"] = key("crop", 'must be "crop" or "squash"', lambda v: v in ("crop", "squash"))
    eval_batch_size: int = key(64, "must be at least 1", lambda v: v >= 1)


@dataclass(frozen=True)
class AugmentSection:
    """What is done to a training sample: RandomResizedCrop, horizontal flip, softened labels."""

    crop_scale: tuple[float, ...] = key(
        (0.08, 1.0), "must be [low, high] with 0 < low <= high <= 1", lambda v: _is_interval(v) and v[1] <= 1
    )
    crop_ratio: tuple[float, ...] = key(
        (0.75, 4 / 3), "must be [low, high] of width / height with 0 < low <= high", _is_interval
    )
    flip_prob: float = key(0.5, "must be in [0, 1]", lambda v: 0 <= v <= 1)
    label_smoothing: float = key(0.1, "must be in [0, 1)", lambda v: 0 <= v < 1)


@dataclass(frozen=True)
class OptimizerSection:
    """AdamW with bias correction and decoupled weight decay."""

    beta1: float = key(0.9, "must be in [0, 1)", lambda v: 0 <= v < 1)
    beta2: float = key(0.999, "must be in [0, 1)", lambda v: 0 <= v < 1)
    eps: float = key(1e-8, "must be greater than 0", lambda v: v > 0)
    weight_decay: float = key(0.05, "must be at least 0", lambda v: v >= 0)


@dataclass(frozen=True)
class ScheduleSection:
    """The learning rate: linear from `warmup_lr` to `base_lr`, then a cosine down to `min_lr`, per step."""

    base_lr: float = key(4e-3, "must be greater than 0", lambda v: v > 0)
    warmup_lr: float = key(0.0, "must be at least 0", lambda v: v >= 0)
    min_lr: float = key(1e-6, "must be at least 0", lambda v: v >= 0)
    warmup_epochs: float = key(20.0, "must be at least 0", lambda v: v >= 0)


@dataclass(frozen=True)
class TrainSection:
    """The length of the run, its seed, and what it leaves behind."""

    epochs: int = key(300, "must be at least 1", lambda v: v >= 1)
    seed: int = key(0, "must be in [0, 2**63)", lambda v: 0 <= v < 2**63)
    eval_every_epochs: int = key(1, "must be at least 1", lambda v: v >= 1)
    keep_checkpoints: int = key(3, "must be 0 (keep all) or at least 1; the best one is always kept", lambda v: v >= 0)


@dataclass(frozen=True)
class Config:
    """One training run, complete."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    augment: AugmentSection = AugmentSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection = TrainSection()


def config_from_mapping(values: Mapping[str, Any]) -> Config:
    """Return the configuration that `values` (sections of keys) states, defaults for the rest.

    Raises ConfigError for an unknown section or key (naming the nearest), a wrong type, a value out of
    range, or keys that contradict each other.
    """
    sections = {part.name: part for part in fields(Config)}
    built = {}
    for name, content in values.items():
        if name not in sections:
            raise ConfigError(unknown_name("section", name, sections))
        if not isinstance(content, Mapping):
            raise ConfigError(f"{name} = {content!r}: must be a section of keys; write [{name}] above its keys")
        built[name] = _section_from_mapping(name, sections[name].type, content)
    config = Config(**built)
    _check_between_keys(config)
    return config


def dotted_keys() -> dict[str, Any]:
    """Every key as `section.key` with its type."""
    sections: list[tuple[str, Any]] = [(part.name, part.type) for part in fields(Config)]
    return {f"{name}.{part.name}": part.type for name, kind in sections for part in fields(kind)}


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return an error text for `name`, with the nearest known name or, failing that, all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(names)}"
    return f"unknown {what} {name}; {hint}"


def _section_from_mapping(section: str, kind: Any, content: Mapping[str, Any]) -> Any:
    keys = {part.name: part for part in fields(kind)}
    built = {}
    for name, value in content.items():
        if name not in keys:
            raise ConfigError(unknown_name("key", f"{section}.{name}", dotted_keys()))
        built[name] = _checked(f"{section}.{name}", keys[name], value)
    return kind(**built)


def _checked(name: str, declared: Field, value: Any) -> Any:
    typed = _typed(name, declared.type, value)
    rule: Rule = declared.metadata["rule"]
    if not rule.holds(typed):
        raise ConfigError(f"{name} = {value!r}: {rule.text}")
    return typed


def _typed(name: str, kind: Any, value: Any) -> Any:
    """Return `value` as `kind`: whole numbers pass for fractions, lists for tuples, nothing else."""
    if get_origin(kind) is Literal:
        kind = str  # the rule names the words
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name} = {value!r}: must be a list of {_TYPE_NAMES[get_args(kind)[0]]}s")
        return tuple(_typed(name, get_args(kind)[0], item) for item in value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ConfigError(f"{name} = {value!r}: must be a {_TYPE_NAMES[kind]}")
    return value


_TYPE_NAMES: Mapping[Any, str] = types.MappingProxyType({int: "whole number", float: "finite number", str: "string"})


def _check_between_keys(config: Config) -> None:
    schedule, epochs = config.schedule, config.train.epochs
    if schedule.warmup_epochs >= epochs:
        raise ConfigError(
            f"schedule.warmup_epochs = {schedule.warmup_epochs}: must be less than train.epochs = {epochs}"
        )
    for low in ("warmup_lr", "min_lr"):
        if getattr(schedule, low) > schedule.base_lr:
            raise ConfigError(
                f"schedule.{low} = {getattr(schedule, low)}: must not exceed schedule.base_lr = {schedule.base_lr}"
            )
