"""The variants of ConvNeXt V1 and V2: everything that decides a network's parameters. Knows nothing of MindSpore.

Sources: arXiv 2201.03545 and facebookresearch/ConvNeXt (V1), arXiv 2301.00808 and facebookresearch/ConvNeXt-V2
(V2), timm (V1 atto to nano).
"""

from dataclasses import dataclass

from convnext_imagenet.model.errors import ModelError

STAGES = 4


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Everything that decides a network's parameters; `grn` means V2, which has no layer scale.

    `drop_path_rate` in [0, 1) is that of the last block, `layer_scale_init` the initial value of V1's gamma. Raises
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

    def __post_init__(self) -> None:
        for field in ("depths", "dims"):
            values = getattr(self, field)
            if len(values) != STAGES or min(values) < 1:
                raise ModelError(f"{field} is {values}; it must be {STAGES} numbers of at least 1, one for each stage")
        if self.num_classes < 1:
            raise ModelError(f"num_classes is {self.num_classes}; it must be at least 1")
        if not 0 <= self.drop_path_rate < 1:
            raise ModelError(f"drop_path_rate is {self.drop_path_rate}; it must be in [0, 1)")


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
