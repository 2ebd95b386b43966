"""What a run leaves as it is: the stem and the first stages, with the down-samplers between them.

Frozen means: no gradient is computed there, no weight decay applied, nothing dropped, no moments or average kept; the
clipped norm is that of the trained gradients alone.
"""

from collections.abc import Mapping
from typing import TypeVar

from convnext_imagenet.model.convnext import ConvNeXt, ConvNeXtConfig, drop_path_rates

Value = TypeVar("Value")


def without_frozen(values: Mapping[str, Value], stages: int) -> dict[str, Value]:
    """Return what `values`, by Facebook's names, holds outside the stem and the first `stages` stages."""
    return {name: value for name, value in values.items() if not _is_frozen(name, stages)}


def trained_drop_path_rates(config: ConvNeXtConfig, stages: int) -> tuple[float, ...]:
    """Return each block's drop path rate: 0 in the first `stages` stages, the network's own after them."""
    still = sum(config.depths[:stages])
    return (0.0,) * still + drop_path_rates(config)[still:]


def set_train(network: ConvNeXt) -> None:
    """Let the network learn, except for its frozen stages, which compute as in evaluation and keep nothing."""
    network.set_train(True)
    for stage in range(network.frozen_stages):
        network.downsample_layers[stage].set_train(False)
        network.stages[stage].set_train(False)


def _is_frozen(name: str, stages: int) -> bool:
    part, _, rest = name.partition(".")
    return part in ("downsample_layers", "stages") and int(rest.split(".")[0]) < stages
