"""Mixed precision for the training network, through MindSpore's amp; LayerNorm and GRN always compute in float32.

amp's own "O1", and any white list, rewrite the network's source code into the working directory and fail on a package
whose folder is no Python identifier. So O1 is defined here by the cells that stay in float32 (DECISIONS, 2026-11-24).
"""

from collections.abc import Mapping

import mindspore as ms
from mindspore import Parameter, amp, nn

from convnext_imagenet.model.blocks import Block
from convnext_imagenet.model.layers import PLAIN, LayerSet
from convnext_imagenet.train.config.faults import refuse
from convnext_imagenet.train.config.fit import device_faults
from convnext_imagenet.train.config.sections import PrecisionSection

_NORMS = ("layer_norm", "response_norm")
# The layers that a level keeps in float32. One that rounds its result only once (`ascend_layers.py`) is not kept.
_KEPT = {"O1": (*_NORMS, "gelu", "residual"), "O2": _NORMS, "O3": _NORMS}
_DTYPES = {"float16": ms.float16, "bfloat16": ms.bfloat16}


def kernels_compute(section: PrecisionSection, device_target: str) -> bool:
    """Return whether our CPU kernels compute this low precision, so that MindSpore casts nothing."""
    return device_target == "CPU" and section.level != "O0" and section.dtype == "bfloat16"


def check_precision(section: PrecisionSection, device_target: str, chip: str = "") -> None:
    """Raise ConfigError for a precision that the device cannot compute; `chip` is its name, "" if unknown."""
    refuse(device_faults(section, device_target, chip))


def lowered_parameters(
    network: nn.Cell, parameters: Mapping[str, Parameter], section: PrecisionSection, layers: LayerSet
) -> dict[str, ms.Type]:
    """Return the type of the parameters that the network needs in low precision alone, by name.

    Only where buckets keep their float32 values (`buckets.py`), which is where the layers are not the plain ones.
    """
    if section.level not in _KEPT or layers == PLAIN:
        return {}
    products = (layers.linear, layers.patch_conv, layers.depthwise_conv)
    cells = [cell for _, cell in network.cells_and_names()]
    low = {id(parameter) for cell in cells if isinstance(cell, products) for parameter in (cell.weight, cell.bias)}
    low |= {id(cell.gamma) for cell in cells if isinstance(cell, Block)}  # layer scale
    return {name: _DTYPES[section.dtype] for name, parameter in parameters.items() if id(parameter) in low}


def lower_precision(network: nn.Cell, section: PrecisionSection, layers: LayerSet = PLAIN) -> nn.Cell:
    """Return the network, built of `layers`, with its cells at `section.level`; parameters keep types and names.

    O1 lowers only matrix products and convolutions, O2 all but the norms. O3 is the same: amp's O2 and O3 differ in
    batch norm, which a ConvNeXt does not have. "auto" follows amp's lists of operators.
    """
    dtype = _DTYPES[section.dtype]
    if section.level == "O0" or kernels_compute(section, ms.get_context("device_target")):
        return network
    if section.level == "auto":
        return amp.auto_mixed_precision(network, "auto", dtype)
    plain = PLAIN._asdict()
    kept = [plain[name] for name in _KEPT[section.level] if getattr(layers, name) is plain[name]]
    return amp.custom_mixed_precision(network, black_list=kept, dtype=dtype)
