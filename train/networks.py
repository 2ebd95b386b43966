"""The networks of a run: what the configuration asks for."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from convnext_imagenet.model.convnext import VARIANTS, ConvNeXt, ConvNeXtConfig
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import ModelCard, assign_parameters, build_network
from convnext_imagenet.train.config import Config, unknown_name
from convnext_imagenet.train.errors import ConfigError
from convnext_imagenet.train.sections import DataSection, ModelSection


def network_config(section: ModelSection, classes: int) -> ConvNeXtConfig:
    """Return the network that `section` asks for over `classes` classes of the records.

    Raises ConfigError for an unknown variant and for a stated class count that is not the records'.
    """
    if section.variant not in VARIANTS:
        raise ConfigError(f"model.variant: {unknown_name('variant', section.variant, VARIANTS)}")
    if section.num_classes not in (0, classes):
        raise ConfigError(
            f"model.num_classes = {section.num_classes}: the records hold {classes} classes; give other records, "
            f"or pass --set model.num_classes=0 to take their count"
        )
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
    """Return the evaluation transform of the configuration; its mean and std serve in training too."""
    return EvalTransform(size_px=section.eval_size_px, crop_pct=section.eval_crop_pct, mode=section.eval_mode)


def training_network(config: Config, card: ModelCard, initial: Mapping[str, np.ndarray]) -> ConvNeXt:
    """Return the network that learns, filled with `initial`: on our CPU kernels only in float32, which they are."""
    frozen = config.model.frozen_stages
    if config.precision.level == "O0":
        return build_network(card, initial, frozen)
    network = ConvNeXt(card.config, frozen_stages=frozen)
    assign_parameters(network, initial)
    return network
