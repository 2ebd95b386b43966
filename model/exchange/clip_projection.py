"""Finds what OpenCLIP and timm put behind a CLIP tower: the projection to the embedding, and the scale of logits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from convnext_imagenet.model.errors import ModelError

# Names of the layers, first to last: OpenCLIP's linear and mlp (`timm_model.py`), then timm's of the same weights.
_TIMM_HEAD = "head.fc"
_LAYERS = (
    ("visual.head.mlp.fc1", "visual.head.mlp.fc2"),
    ("visual.head.proj",),
    ("head.pre_logits.fc", _TIMM_HEAD),
    (_TIMM_HEAD,),
)

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ClipProjection:
    """The parameters of the projection by our names, float32, and the widths of its layers.

    `logit_scale` is the factor of the logits, None if the file does not hold it; `logit_bias` is added to them.
    """

    arrays: Mapping[str, np.ndarray]
    widths: tuple[int, ...]
    logit_scale: float | None
    logit_bias: float


def clip_projection(tensors: Tensors, features: int, what: str) -> ClipProjection:
    """Return the projection of a tower with this many features.

    Raises ModelError, starting with `what`, for a file without one, and for one that does not fit or is not finite.
    """
    layers = next((names for names in _LAYERS if all(f"{name}.weight" in tensors for name in names)), None)
    if layers is None:
        raise ModelError(
            f"{what}: holds no projection of CLIP (visual.head.proj.weight or {_TIMM_HEAD}.weight), which --zero-shot "
            f"needs; give the weights of a whole CLIP ConvNeXt"
        )
    if layers[-1] == _TIMM_HEAD and tensors.get(f"{_TIMM_HEAD}.bias", np.zeros(1)).any():
        outputs = len(tensors[f"{_TIMM_HEAD}.weight"])
        raise ModelError(
            f"{what}: its head of {outputs} outputs has a bias, so it is a classifier, not the projection of CLIP that "
            f"--zero-shot needs; leave --zero-shot out"
        )
    arrays: dict[str, np.ndarray] = {}
    width = features
    for index, name in enumerate(layers):
        weight = tensors[f"{name}.weight"]
        bias = tensors.get(f"{name}.bias", np.zeros(len(weight), np.float32) if weight.ndim else weight)
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise ModelError(
                f"{what}: {name} has shapes {weight.shape} and {bias.shape}, but takes {width} values; give whole "
                f"weights"
            )
        width = len(weight)
        arrays[f"head.projection.{index}.weight"] = weight.astype(np.float32)
        arrays[f"head.projection.{index}.bias"] = bias.astype(np.float32)
    scale, shift = (_scalar(tensors, name, what) for name in ("logit_scale", "logit_bias"))
    if faulty := next((name for name, array in arrays.items() if not np.isfinite(array).all()), None):
        raise ModelError(f"{what}: {faulty} holds NaN or infinity; give another checkpoint")
    widths = tuple(len(arrays[f"head.projection.{index}.bias"]) for index in range(len(layers)))
    return ClipProjection(arrays, widths, None if scale is None else math.exp(scale), shift or 0.0)


def _scalar(tensors: Tensors, name: str, what: str) -> float | None:
    """Return one number; OpenCLIP stores the logarithm of the scale."""
    if name not in tensors:
        return None
    if tensors[name].size != 1 or not abs(float(tensors[name].reshape(()))) < 50:  # also NaN
        raise ModelError(f"{what}: {name} is no usable number; give another checkpoint")
    return float(tensors[name].reshape(()))
