"""The variants of ConvNeXt V1 and V2: everything that decides a network's parameters. Knows nothing of MindSpore.

Sources: arXiv 2201.03545 and facebookresearch/ConvNeXt (V1), arXiv 2301.00808 and facebookresearch/ConvNeXt-V2
(V2), timm (V1 atto to nano).
"""

from dataclasses import dataclass, replace
from typing import Literal

from convnext_imagenet.model.errors import ModelError

STAGES = 4
EPSILON = 1e-6  # of every LayerNorm of both papers' networks; global response normalisation has no other

Activation = Literal["gelu", "gelu_tanh"]


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Everything that decides a network; `grn` means V2, which has no layer scale.

    `num_classes` is 0 for a network without a head, whose output is its features. `drop_path_rate` in [0, 1) is that of
    the last block, `layer_scale_init` the initial value of V1's gamma. `norm_epsilon` belongs to every LayerNorm but
    the last, which has `head_norm_epsilon`. `activation` "gelu_tanh" is GELU's tanh form. Networks of other programs
    differ in these three; ours never do. `head_projection` is () for a linear head. Otherwise the head compares
    embeddings: layers of these widths with GELU between them, whose last output is scaled to length 1. Raises
    ModelError for values out of range.
    """

    variant: str
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    grn: bool = False
    num_classes: int = 1000
    drop_path_rate: float = 0.0
    layer_scale_init: float = 1e-6
    head_init_scale: float = 1.0
    norm_epsilon: float = EPSILON
    head_norm_epsilon: float = EPSILON
    activation: Activation = "gelu"
    head_projection: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in ("depths", "dims"):
            values = getattr(self, field)
            if len(values) != STAGES or min(values) < 1:
                raise ModelError(f"{field} is {values}; it must be {STAGES} numbers of at least 1, one for each stage")
        if self.num_classes < 0:
            raise ModelError(f"num_classes is {self.num_classes}; it must be at least 1, or 0 for no head")
        if self.head_projection and (min(self.head_projection) < 1 or not self.num_classes):
            raise ModelError(
                f"head_projection is {self.head_projection} with {self.num_classes} classes; it must be widths of at "
                f"least 1, and belong to a head"
            )
        for field in ("norm_epsilon", "head_norm_epsilon"):
            if not 0 < getattr(self, field) < 1:
                raise ModelError(f"{field} is {getattr(self, field)}; it must be above 0 and below 1")
        if self.activation not in ("gelu", "gelu_tanh"):
            raise ModelError(f'activation is {self.activation!r}; it must be "gelu" or "gelu_tanh"')
        if not 0 <= self.drop_path_rate < 1:
            raise ModelError(f"drop_path_rate is {self.drop_path_rate}; it must be in [0, 1)")

    @property
    def has_usual_functions(self) -> bool:
        """Return whether epsilons and GELU are the papers', which our CPU kernels compute."""
        return (self.norm_epsilon, self.head_norm_epsilon, self.activation) == (EPSILON, EPSILON, "gelu")

    @property
    def without_head(self) -> "ConvNeXtConfig":
        """Return the same network without a head."""
        return replace(self, num_classes=0, head_projection=())


_SMALL = (2, 2, 6, 2)
_TINY = (3, 3, 9, 3)
_LARGE = (3, 3, 27, 3)

# Drop path rates are the paper's (2201.03545, table 5; for xlarge, those of fine-tuning from ImageNet-22k). Several
# recipes exist for V2 and for V1's small variants, so their rate is 0 here and a preset sets it.
VARIANTS: dict[str, ConvNeXtConfig] = {
    config.variant: config
    for config in (
        ConvNeXtConfig("convnext_atto", _SMALL, (40, 80, 160, 320)),
        ConvNeXtConfig("convnext_femto", _SMALL, (48, 96, 192, 384)),
        ConvNeXtConfig("convnext_pico", _SMALL, (64, 128, 256, 512)),
        ConvNeXtConfig("convnext_nano", (2, 2, 8, 2), (80, 160, 320, 640)),
        ConvNeXtConfig("convnext_tiny", _TINY, (96, 192, 384, 768), drop_path_rate=0.1),
        ConvNeXtConfig("convnext_small", _LARGE, (96, 192, 384, 768), drop_path_rate=0.4),
        ConvNeXtConfig("convnext_base", _LARGE, (128, 256, 512, 1024), drop_path_rate=0.5),
        ConvNeXtConfig("convnext_large", _LARGE, (192, 384, 768, 1536), drop_path_rate=0.5),
        ConvNeXtConfig("convnext_xlarge", _LARGE, (256, 512, 1024, 2048), drop_path_rate=0.4),
        ConvNeXtConfig("convnextv2_atto", _SMALL, (40, 80, 160, 320), grn=True),
        ConvNeXtConfig("convnextv2_femto", _SMALL, (48, 96, 192, 384), grn=True),
        ConvNeXtConfig("convnextv2_pico", _SMALL, (64, 128, 256, 512), grn=True),
        ConvNeXtConfig("convnextv2_nano", (2, 2, 8, 2), (80, 160, 320, 640), grn=True),
        ConvNeXtConfig("convnextv2_tiny", _TINY, (96, 192, 384, 768), grn=True),
        ConvNeXtConfig("convnextv2_base", _LARGE, (128, 256, 512, 1024), grn=True),
        ConvNeXtConfig("convnextv2_large", _LARGE, (192, 384, 768, 1536), grn=True),
        ConvNeXtConfig("convnextv2_huge", _LARGE, (352, 704, 1408, 2816), grn=True),
    )
}
