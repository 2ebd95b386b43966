"""timm's and transformers' own ConvNeXts with random weights, for comparison; imports nothing of ours.

Weights are drawn large enough that a wrong branch, bias or gamma shows: the libraries' own start has a layer scale of
1e-6, behind which every block could be wrong.
"""

import math
import sys
import types
from collections.abc import Callable

# What torchvision declares for detection fails where its build and torch's are of different kinds; unused here.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("unused")

import timm  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from timm.models.convnext import ConvNeXt  # noqa: E402


def draw_weights(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random values for every parameter: weights by their fan-in, scales around 1, the rest around 0.

    The last two vary by 0.2: with more, the logits of two images differ by less than a hundredth of their size.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        is_matrix, is_grn = parameter.ndim > 1, "grn" in name
        spread = 1 / parameter[0].numel() ** 0.5 if is_matrix and not is_grn else 0.2
        is_scale = not is_matrix and not is_grn and name.endswith(("weight", "gamma", "layer_scale_parameter"))
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + float(is_scale)
    return model.eval()


def timm_model(name: str, seed: int, **options) -> torch.nn.Module:
    """A model of timm's registry with random weights."""
    return draw_weights(timm.create_model(name, **options), seed)


def tiny_timm_model(seed: int, **options) -> torch.nn.Module:
    """The smallest ConvNeXt that timm's class makes."""
    return draw_weights(ConvNeXt(depths=(1, 2, 1, 1), dims=(8, 16, 24, 32), num_classes=7, **options), seed)


def transformers_model(seed: int, is_v2: bool, depths, dims, classes: int = 1000) -> torch.nn.Module:
    """transformers' ConvNeXt for classification with random weights."""
    config: Callable = transformers.ConvNextV2Config if is_v2 else transformers.ConvNextConfig
    model: Callable = (
        transformers.ConvNextV2ForImageClassification if is_v2 else transformers.ConvNextForImageClassification
    )
    return draw_weights(model(config(depths=list(depths), hidden_sizes=list(dims), num_labels=classes)), seed)


def dinov3_model(seed: int, **changes) -> torch.nn.Module:
    """transformers' ConvNeXt of DINOv3 with random weights: features without classes."""
    return draw_weights(transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(**changes)), seed)


def clip_model(seed: int, proj: str, model: str = "convnext_atto", width: int = 64) -> torch.nn.Module:
    """OpenCLIP's network with a small text tower and random weights; cosines count 50-fold."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(timm_model_name=model, timm_pool="", timm_proj=proj, image_size=224)
    network = draw_weights(CLIP(width, vision, CLIPTextCfg(width=64, heads=2, layers=2)), seed)
    network.logit_scale.data.fill_(math.log(50))
    return network


def facebook_names(timm_state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict as Facebook's code names it, of which timm's own converter makes `timm_state` again."""
    found = {}
    for name, value in timm_state.items():
        stem, leaf = name.rsplit(".", 1)
        parts = stem.split(".")
        if parts[0] == "stem":
            stem = f"downsample_layers.0.{parts[1]}"
        elif parts[0] == "head":
            stem = {"norm": "norm", "fc": "head"}[parts[1]]
        elif parts[2] == "downsample":
            stem = f"downsample_layers.{parts[1]}.{parts[3]}"
        else:
            last = (
                ".".join(parts[4:]).replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace("mlp.grn", "grn")
            )
            stem = ".".join(part for part in ("stages", parts[1], parts[3], last) if part)
        if stem.endswith(".grn"):
            leaf, value = {"weight": "gamma", "bias": "beta"}[leaf], value.reshape(1, 1, 1, -1)
        found[f"{stem}.{leaf}"] = value
    return found
