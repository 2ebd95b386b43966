"""How other programs name and shape the parameters of a ConvNeXt: one table for both import and export.

Our names are Facebook's. Sources: facebookresearch/ConvNeXt and ConvNeXt-V2, timm 1.0 `models/convnext.py`,
transformers `models/convnext` and `models/convnextv2`, MindCV `models/convnext.py`, open_clip `timm_model.py`, and the
MindSpore example that this project replaces. This file reads and writes no files.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from convnext_imagenet.model.convnext import STAGES, ConvNeXtConfig, Shape, parameter_shapes
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.variants import Activation

MOST_BLOCKS = 100  # per stage: names are listed up to here; the deepest variant has 27

_WEIGHT_BIAS = ("weight", "bias")
_GAMMA_BETA = ("gamma", "beta")
_NORM = re.compile(r"(norm|downsample_layers\.(0\.1|[1-9]\.0)|stages\..*\.norm)")


@dataclass(frozen=True)
class Scheme:
    """One program's names: `modules` maps our modules and single parameters to theirs, in the network's order.

    {s} stands for every stage, {d} for every stage but the first, {even} and {odd} for 2 s and 2 s + 1, {b} for every
    block. `norm_leaves` and `grn_leaves` are the names of weight and bias in a LayerNorm and in GRN. Names may begin
    with any of `prefixes`; export writes the first one. `conv_mlp` lists the variants whose pointwise weights are
    convolutions (D, C, 1, 1). `is_grn_flat` means that GRN's parameters are (4C,) instead of (1, 1, 1, 4C).
    `ignored_names` matches other tensors in such a file that an import does not need. `remark` is printed for users.
    `activation` is what this program computes unless its configuration states another.
    """

    name: str
    title: str
    modules: Mapping[str, str]
    norm_leaves: tuple[str, str] = _WEIGHT_BIAS
    grn_leaves: tuple[str, str] = _GAMMA_BETA
    prefixes: tuple[str, ...] = ("",)
    conv_mlp: frozenset[str] = frozenset()
    is_grn_flat: bool = False
    ignored_names: str = "(?!)"  # matches nothing
    remark: str = ""
    activation: Activation = "gelu"

    def theirs(self, name: str) -> str:
        """Return their name of our parameter. Raises KeyError for a parameter that they do not have."""
        return self.prefixes[0] + self._outward[name]

    def ours(self, name: str) -> str | None:
        """Return our name of their parameter, with any of the prefixes; None for another tensor."""
        bare_names = (name.removeprefix(prefix) for prefix in self.prefixes if name.startswith(prefix))
        return next((self._inward[bare] for bare in bare_names if bare in self._inward), None)

    def their_shape(self, name: str, shape: Shape, config: ConvNeXtConfig) -> Shape:
        """Return the shape that they give our parameter `name` of `shape`: the same values in the same order."""
        if self.is_grn_flat and ".grn." in name:
            return shape[-1:]
        if config.variant in self.conv_mlp and re.search(r"\.pwconv[12]\.weight$", name):
            return (*shape, 1, 1)
        return shape

    @cached_property
    def _outward(self) -> dict[str, str]:
        return {
            f"{ours}{our_leaf}": f"{theirs}{their_leaf}"
            for module, named in self.modules.items()
            for ours, theirs in _expand(module, named)
            for our_leaf, their_leaf in self._leaves(ours)
        }

    @cached_property
    def _inward(self) -> dict[str, str]:
        return {theirs: ours for ours, theirs in self._outward.items()}

    def _leaves(self, module: str) -> Iterator[tuple[str, str]]:
        if module.endswith(".gamma"):  # layer scale is one parameter
            yield "", ""
            return
        ours, theirs = _WEIGHT_BIAS, _WEIGHT_BIAS
        if module.endswith(".grn"):
            ours, theirs = _GAMMA_BETA, self.grn_leaves
        elif _NORM.fullmatch(module):
            theirs = self.norm_leaves
        for our_leaf, their_leaf in zip(ours, theirs, strict=True):
            yield f".{our_leaf}", f".{their_leaf}"


def _expand(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """Yield (our name, their name) of a module in the table for every stage and block that it stands for."""
    stages = range(STAGES) if "{s}" in ours else range(1, STAGES) if "{d}" in ours else range(1)
    for stage in stages:
        for block in range(MOST_BLOCKS if "{b}" in ours else 1):
            fields = {"s": stage, "d": stage, "even": 2 * stage, "odd": 2 * stage + 1, "b": block}
            yield ours.format(**fields), theirs.format(**fields)


_FACEBOOK = {
    "downsample_layers.0.0": "downsample_layers.0.0",
    "downsample_layers.0.1": "downsample_layers.0.1",
    "downsample_layers.{d}.0": "downsample_layers.{d}.0",
    "downsample_layers.{d}.1": "downsample_layers.{d}.1",
    "stages.{s}.{b}.dwconv": "stages.{s}.{b}.dwconv",
    "stages.{s}.{b}.norm": "stages.{s}.{b}.norm",
    "stages.{s}.{b}.pwconv1": "stages.{s}.{b}.pwconv1",
    "stages.{s}.{b}.pwconv2": "stages.{s}.{b}.pwconv2",
    "stages.{s}.{b}.gamma": "stages.{s}.{b}.gamma",
    "stages.{s}.{b}.grn": "stages.{s}.{b}.grn",
    "norm": "norm",
    "head": "head",
}
_TIMM = {
    "downsample_layers.0.0": "stem.0",
    "downsample_layers.0.1": "stem.1",
    "downsample_layers.{d}.0": "stages.{d}.downsample.0",
    "downsample_layers.{d}.1": "stages.{d}.downsample.1",
    "stages.{s}.{b}.dwconv": "stages.{s}.blocks.{b}.conv_dw",
    "stages.{s}.{b}.norm": "stages.{s}.blocks.{b}.norm",
    "stages.{s}.{b}.pwconv1": "stages.{s}.blocks.{b}.mlp.fc1",
    "stages.{s}.{b}.pwconv2": "stages.{s}.blocks.{b}.mlp.fc2",
    "stages.{s}.{b}.gamma": "stages.{s}.blocks.{b}.gamma",
    "stages.{s}.{b}.grn": "stages.{s}.blocks.{b}.mlp.grn",
    "norm": "head.norm",
    "head": "head.fc",
}
_MINDCV = {
    "downsample_layers.0.0": "feature.0.0",
    "downsample_layers.0.1": "feature.0.1",
    "downsample_layers.{d}.0": "feature.{even}.0",
    "downsample_layers.{d}.1": "feature.{even}.1",
    "stages.{s}.{b}.dwconv": "feature.{odd}.{b}.dwconv",
    "stages.{s}.{b}.norm": "feature.{odd}.{b}.norm",
    "stages.{s}.{b}.pwconv1": "feature.{odd}.{b}.pwconv1",
    "stages.{s}.{b}.pwconv2": "feature.{odd}.{b}.pwconv2",
    "stages.{s}.{b}.gamma": "feature.{odd}.{b}.gamma_",
    "norm": "norm",
    "head": "classifier",
}


def _transformers(root: str) -> dict[str, str]:
    layer = f"{root}encoder.stages.{{s}}.layers.{{b}}"
    return {
        "downsample_layers.0.0": f"{root}embeddings.patch_embeddings",
        "downsample_layers.0.1": f"{root}embeddings.layernorm",
        "downsample_layers.{d}.0": f"{root}encoder.stages.{{d}}.downsampling_layer.0",
        "downsample_layers.{d}.1": f"{root}encoder.stages.{{d}}.downsampling_layer.1",
        "stages.{s}.{b}.dwconv": f"{layer}.dwconv",
        "stages.{s}.{b}.norm": f"{layer}.layernorm",
        "stages.{s}.{b}.pwconv1": f"{layer}.pwconv1",
        "stages.{s}.{b}.pwconv2": f"{layer}.pwconv2",
        "stages.{s}.{b}.gamma": f"{layer}.layer_scale_parameter",
        "stages.{s}.{b}.grn": f"{layer}.grn",
        "norm": f"{root}layernorm",
        "head": "classifier",
    }


def _dinov3() -> dict[str, str]:
    """Return the names of transformers' `dinov3_convnext`, without their beginning.

    It has no classifier and no V2; the names of these are ours, so that every scheme names every parameter.
    """
    return {
        "downsample_layers.0.0": "stages.0.downsample_layers.0",
        "downsample_layers.0.1": "stages.0.downsample_layers.1",
        "downsample_layers.{d}.0": "stages.{d}.downsample_layers.0",
        "downsample_layers.{d}.1": "stages.{d}.downsample_layers.1",
        "stages.{s}.{b}.dwconv": "stages.{s}.layers.{b}.depthwise_conv",
        "stages.{s}.{b}.norm": "stages.{s}.layers.{b}.layer_norm",
        "stages.{s}.{b}.pwconv1": "stages.{s}.layers.{b}.pointwise_conv1",
        "stages.{s}.{b}.pwconv2": "stages.{s}.layers.{b}.pointwise_conv2",
        "stages.{s}.{b}.gamma": "stages.{s}.layers.{b}.gamma",
        "stages.{s}.{b}.grn": "stages.{s}.layers.{b}.grn",
        "norm": "layer_norm",
        "head": "head",
    }


# timm builds these with `conv_mlp=True`: the pointwise layers are 1 x 1 convolutions.
_CONV_MLP = frozenset(
    f"{family}_{size}" for family in ("convnext", "convnextv2") for size in ("atto", "femto", "pico", "nano")
)

# State of MindSpore's optimizers: a parameter's name behind one of these words. Scalars are recognised by their size.
_MINDSPORE_STATE = r"(adam_[mv]|moments?[12]?|accum|velocity|stat|exp_avg(_sq)?|ema)\..+"
_TANH = "trained with MindSpore's nn.GELU, by default the tanh form: this network computes the tanh form, too"
# DINOv3 and EUPE: a second name of the last norm, and heads of their training (as timm 1.0.31 leaves them out)
_DINOV3_OTHERS = r"(norms|projectors)\..+"

SCHEMES: tuple[Scheme, ...] = (
    Scheme("facebook", "Facebook's", _FACEBOOK, prefixes=("", "module."), ignored_names=_DINOV3_OTHERS),
    Scheme(
        "timm", "timm's", _TIMM, grn_leaves=_WEIGHT_BIAS, prefixes=("", "module."), conv_mlp=_CONV_MLP, is_grn_flat=True
    ),
    Scheme("transformers", "transformers'", _transformers("convnext.")),
    Scheme("transformers", "transformers'", _transformers("convnextv2."), grn_leaves=_WEIGHT_BIAS),
    Scheme("transformers", "transformers'", _transformers(""), grn_leaves=_WEIGHT_BIAS),  # without a classifier
    # Of two releases of transformers: the encoder is a module of its own in the later one.
    Scheme("dinov3", "DINOv3's (transformers)", _dinov3(), prefixes=("", "model.", "encoder.")),
    Scheme(
        "mindcv", "MindCV's", _MINDCV, norm_leaves=_GAMMA_BETA, ignored_names=_MINDSPORE_STATE, remark=_TANH,
        activation="gelu_tanh",
    ),
    Scheme(
        "example", "the MindSpore example's", _FACEBOOK, norm_leaves=_GAMMA_BETA, prefixes=("model.", ""),
        ignored_names=_MINDSPORE_STATE, remark=_TANH, activation="gelu_tanh",
    ),
    Scheme(
        "openclip", "OpenCLIP's", _TIMM, grn_leaves=_WEIGHT_BIAS, prefixes=("visual.trunk.",), is_grn_flat=True,
        ignored_names=r"(?!visual\.trunk\.).+",  # the projection and the text tower
    ),
)  # fmt: skip


def scheme_named(name: str) -> Scheme:
    """Return the scheme of this name, of several (transformers) the one of V1. Raises ModelError for other names."""
    named = [scheme for scheme in SCHEMES if scheme.name == name]
    if not named:
        known = ", ".join(dict.fromkeys(scheme.name for scheme in SCHEMES))
        raise ModelError(f"no naming scheme {name!r} is known; choose one of {known}")
    return named[0]


def export_arrays(arrays: Mapping[str, np.ndarray], config: ConvNeXtConfig, scheme: Scheme) -> dict[str, np.ndarray]:
    """Return the parameters of `config`'s network by another program's names and in its shapes, with the same bits."""
    return {
        scheme.theirs(name): arrays[name].reshape(scheme.their_shape(name, shape, config))
        for name, shape in parameter_shapes(config).items()
    }


def import_arrays(arrays: Mapping[str, np.ndarray], scheme: Scheme) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the parameters among the arrays, by our names and in our shapes, and the names of the other arrays.

    Only axes of length 1 are added or removed; any other shape is kept, and a later check refuses it.
    """
    ours: dict[str, np.ndarray] = {}
    others = []
    for their_name, array in arrays.items():
        name = scheme.ours(their_name)
        if name is None or name in ours:
            others.append(their_name)
        else:
            ours[name] = array.reshape(_our_shape(name, array.shape))
    return ours, others


def _our_shape(name: str, shape: Shape) -> Shape:
    if ".grn." in name and len(shape) == 1:
        return (1, 1, 1, *shape)
    if re.search(r"\.pwconv[12]\.weight$", name) and shape[2:] == (1, 1):
        return shape[:2]
    return shape
