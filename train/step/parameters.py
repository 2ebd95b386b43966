"""The networks of a configuration, which of their parameters learn, and their layer-wise learning rates."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import mindspore as ms
import numpy as np

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import VARIANTS, ConvNeXt, ConvNeXtConfig, drop_path_rates
from convnext_imagenet.model.kernels.products import choose_unit
from convnext_imagenet.model.runtime import cpu_kernels
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import assign_parameters, build_network, device_layers
from convnext_imagenet.train.config.config import Config, check_network_is_known
from convnext_imagenet.train.config.faults import refuse
from convnext_imagenet.train.config.fit import model_faults
from convnext_imagenet.train.config.sections import DataSection, ModelSection
from convnext_imagenet.train.step.precision import kernels_compute

_TWELVE = 12  # groups of facebookresearch/ConvNeXt, optim_factory.get_num_layer_for_convnext
_BLOCKS_PER_GROUP = 3  # of the third stage, as there

Value = TypeVar("Value")


def network_config(section: ModelSection, classes: int) -> ConvNeXtConfig:
    """Return the network that `section` describes, for the records' `classes` classes.

    Raises ConfigError for an unknown variant or none, and for a class count that differs from the records'.
    """
    check_network_is_known(section)
    refuse(model_faults(section, classes))
    variant = VARIANTS[section.variant]
    return dataclasses.replace(
        variant,
        depths=section.depths or variant.depths,
        dims=section.dims or variant.dims,
        num_classes=classes,
        drop_path_rate=section.drop_path_rate,
        layer_scale_init=section.layer_scale_init,
        head_init_scale=section.head_init_scale,
    )


def evaluation_transform(section: DataSection) -> EvalTransform:
    """Return the evaluation transform of the configuration; training uses its mean and std, too."""
    return EvalTransform(size_px=section.eval_size_px, crop_pct=section.eval_crop_pct, mode=section.eval_mode)


def training_network(config: Config, card: ModelCard, initial: Mapping[str, np.ndarray]) -> ConvNeXt:
    """Return the network that learns, filled with `initial`; our CPU kernels have float32 and bfloat16, not float16.

    Raises ModelError for bfloat16 where the processor does not have it, or our kernels do not run.
    """
    frozen = config.model.frozen_stages
    if config.precision.level == "O0":
        return build_network(card, initial, frozen)
    kernels = None
    if is_low_on_cpu := kernels_compute(config.precision, ms.get_context("device_target")):
        kernels = cpu_kernels()
        choose_unit("bfloat16", kernels)
    network = ConvNeXt(card.config, kernels, frozen, device_layers(), is_low_on_cpu)
    assign_parameters(network, initial)
    return network


def set_train(network: ConvNeXt) -> None:
    """Set the network to training mode, except for its frozen stages (DECISIONS, 2026-11-26)."""
    network.set_train(True)
    for stage in range(network.frozen_stages):
        network.downsample_layers[stage].set_train(False)
        network.stages[stage].set_train(False)


def without_frozen(values: Mapping[str, Value], stages: int) -> dict[str, Value]:
    """Return `values`, by Facebook's names, without those of the stem and the first `stages` stages."""
    return {name: value for name, value in values.items() if not _is_frozen(name, stages)}


def trained_drop_path_rates(config: ConvNeXtConfig, stages: int) -> tuple[float, ...]:
    """Return each block's drop path rate: 0 in the first `stages` stages, the network's own after them."""
    frozen = sum(config.depths[:stages])
    return (0.0,) * frozen + drop_path_rates(config)[frozen:]


def layer_factors(
    names: Iterable[str], decay: float, groups: Literal["twelve", "blocks"], depths: Sequence[int]
) -> dict[str, float]:
    """Return the factor of each parameter's learning rate: 1 for norm and head, times `decay` for each group below.

    `names` are Facebook's, `depths` the blocks of each stage. Raises ValueError for a name that no ConvNeXt has.
    """
    top = (_TWELVE if groups == "twelve" else sum(depths)) + 1
    group_of = _group_of_twelve if groups == "twelve" else _group_by_block
    return {name: decay ** (top - group_of(*_layer(name), depths)) for name in names}


def _is_frozen(name: str, stages: int) -> bool:
    part, _, rest = name.partition(".")
    return part in ("downsample_layers", "stages") and int(rest.split(".")[0]) < stages


def _layer(name: str) -> tuple[str, int, int]:
    """Return the part of the network that a parameter is in, its stage and its block there, 0 where it has none."""
    part, *rest = name.split(".")
    if part in ("norm", "head"):
        return part, 0, 0
    if part == "downsample_layers":
        return part, int(rest[0]), 0
    if part == "stages":
        return part, int(rest[0]), int(rest[1])
    raise ValueError(f"{name}: not a parameter of a ConvNeXt")


def _group_of_twelve(part: str, stage: int, block: int, depths: Sequence[int]) -> int:
    if part == "downsample_layers":
        return {0: 0, 1: 2, 2: 3, 3: _TWELVE}[stage]
    if part == "stages":
        return {0: 1, 1: 2, 2: 3 + block // _BLOCKS_PER_GROUP, 3: _TWELVE}[stage]
    return _TWELVE + 1


def _group_by_block(part: str, stage: int, block: int, depths: Sequence[int]) -> int:
    if part in ("norm", "head"):
        return sum(depths) + 1
    return sum(depths[:stage]) + block + 1
