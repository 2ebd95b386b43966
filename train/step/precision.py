"""Mixed precision for the training network, through MindSpore's amp; LayerNorm and GRN always compute in float32.

amp's own "O1", and any white list, rewrite the network's source code into the working directory and fail on a package
whose folder is no Python identifier. So O1 is defined here by the cells that stay in float32 (DECISIONS, 2026-11-24).
"""

import mindspore as ms
from mindspore import amp, nn

from convnext_imagenet.model.layers import Gelu, GlobalResponseNorm, LayerNorm, Residual
from convnext_imagenet.train.config.sections import PrecisionSection
from convnext_imagenet.train.errors import ConfigError

_NORMS = [LayerNorm, GlobalResponseNorm]
_DTYPES = {"float16": ms.float16, "bfloat16": ms.bfloat16}


def check_precision(section: PrecisionSection, device_target: str) -> None:
    """Raise ConfigError for a precision that the device cannot compute."""
    if section.level != "O0" and section.dtype == "bfloat16" and device_target == "CPU":
        raise ConfigError(
            'precision.dtype = "bfloat16": MindSpore does not compile it for the CPU; use a GPU or Ascend, or pass '
            "--set precision.dtype=float16 or --set precision.level=O0"
        )


def lower_precision(network: nn.Cell, section: PrecisionSection) -> nn.Cell:
    """Return the network with its cells at `section.level`; parameters stay float32 and keep their names.

    O1 lowers only matrix products and convolutions, O2 all but the norms. O3 is the same: amp's O2 and O3 differ in
    batch norm, which a ConvNeXt does not have. "auto" follows amp's lists of operators.
    """
    dtype = _DTYPES[section.dtype]
    if section.level == "O0":
        return network
    if section.level == "auto":
        return amp.auto_mixed_precision(network, "auto", dtype)
    kept = {"O1": [*_NORMS, Gelu, Residual], "O2": [*_NORMS, *amp.get_black_list()], "O3": _NORMS}[section.level]
    return amp.custom_mixed_precision(network, black_list=kept, dtype=dtype)
