"""ConvNeXt V1 and V2: configuration, variants, parameters, network.

Sources: arXiv 2201.03545 and facebookresearch/ConvNeXt (V1), arXiv 2301.00808 and facebookresearch/ConvNeXt-V2
(V2), timm (V1 atto to nano). Names and shapes of parameters are Facebook's.
"""

import hashlib
import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from convnext_imagenet.model.blocks import DOWNSAMPLE_SIZE, EXPANSION, STEM_SIZE, Block, Downsample, Stem
from convnext_imagenet.model.cpu_blocks import CpuBlock, CpuDownsample, CpuStem
from convnext_imagenet.model.layers import DEPTHWISE_SIZE, PLAIN, CosineHead, LayerSet
from convnext_imagenet.model.variants import STAGES, ConvNeXtConfig
from convnext_imagenet.model.variants import VARIANTS as VARIANTS  # the documented place

# Raise if the same weights and pixels give another answer, or the same seed other initial weights (DECISIONS,
# 2026-11-28).
NETWORK_VERSION = 1

WEIGHT_STD = 0.02  # of the initial weights, in both of Facebook's repositories

Shape = tuple[int, ...]


class ConvNeXt(nn.Cell):
    """The network: normalised images (N, H, W, 3) -> logits (N, K), channels last inside.

    Its parameters start at zero: fill them by `weights.assign_parameters`. `keep_NB` multiplies the branch of block b
    for sample n by 0 or 1 / (1 - rate of b), which the caller draws (DECISIONS, 2026-11-23); without it no branch is
    dropped. `kernels` is the library of `kernels.build`, or None for MindSpore's own operators in the form of
    `layers` (`weights.device_layers`): the same parameters, and the same numbers up to rounding. With `low`, products
    of the kernels take bfloat16, except those of stem and head. No gradient flows into the stem and the first
    `frozen_stages` stages. Without a head the output is the features (N, C). The kernels know only the usual epsilon
    and GELU, so a network with others never uses them.
    """

    def __init__(
        self,
        config: ConvNeXtConfig,
        kernels: Path | None = None,
        frozen_stages: int = 0,
        layers: LayerSet = PLAIN,
        low: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.frozen_stages = frozen_stages
        dims = config.dims
        epsilon = config.norm_epsilon
        stem: Callable[..., nn.Cell] = partial(Stem, layers=layers, epsilon=epsilon)
        downsample: Callable[..., nn.Cell] = partial(Downsample, layers=layers, epsilon=epsilon)
        block: Callable[..., nn.Cell] = partial(Block, layers=layers, epsilon=epsilon, activation=config.activation)
        if kernels is not None and config.has_usual_functions:
            stem = partial(CpuStem, library=kernels)
            downsample = partial(CpuDownsample, library=kernels, low=low)
            block = partial(CpuBlock, library=kernels, low=low)
        self.downsample_layers = nn.CellList([stem(dims[0]), *(downsample(*pair) for pair in itertools.pairwise(dims))])
        self.stages = nn.CellList(
            [
                nn.CellList([block(dim, config.grn) for _ in range(depth)])
                for dim, depth in zip(dims, config.depths, strict=True)
            ]
        )
        self.columns = layers.columns()
        self.norm = layers.layer_norm(dims[-1], config.head_norm_epsilon)
        self.head = self._head(config, layers)

    def _head(self, config: ConvNeXtConfig, layers: LayerSet) -> nn.Cell | None:
        if not config.num_classes:
            return None
        if config.head_projection:
            return CosineHead(config.dims[-1], config.head_projection, config.num_classes)
        return layers.linear(config.dims[-1], config.num_classes)

    def construct(self, x_NHWC: Tensor, keep_NB: Tensor | None = None) -> Tensor:
        features_NC = self.features(x_NHWC, keep_NB)
        return features_NC if self.head is None else self.head(features_NC)

    def features(self, x_NHWC: Tensor, keep_NB: Tensor | None = None) -> Tensor:
        """Return the pooled and normalised features (N, C) that the head classifies."""
        keep = None if keep_NB is None else self.columns(keep_NB)
        index = 0
        for stage in range(STAGES):
            x_NHWC = self.downsample_layers[stage](x_NHWC)
            for block in self.stages[stage]:
                x_NHWC = block(x_NHWC, None if keep is None else keep[index])
                index += 1
            if stage + 1 == self.frozen_stages:
                x_NHWC = ops.stop_gradient(x_NHWC)
        return self.norm(ops.mean(x_NHWC, (1, 2)))


def block_count(config: ConvNeXtConfig) -> int:
    """Return the number of blocks, the B of `keep_NB`."""
    return sum(config.depths)


def drop_path_rates(config: ConvNeXtConfig) -> tuple[float, ...]:
    """Return the probability of dropping each block's branch, rising linearly from 0 to `drop_path_rate`."""
    return tuple(float(rate) for rate in np.linspace(0.0, config.drop_path_rate, block_count(config)))


def parameter_shapes(config: ConvNeXtConfig) -> dict[str, Shape]:
    """Return the shape of every parameter by Facebook's name."""
    dims = config.dims
    shapes = _affine("downsample_layers.0.0", (dims[0], 3, STEM_SIZE, STEM_SIZE))
    shapes |= _affine("downsample_layers.0.1", (dims[0],))
    for stage in range(1, STAGES):
        narrow, wide = dims[stage - 1], dims[stage]
        shapes |= _affine(f"downsample_layers.{stage}.0", (narrow,))
        shapes |= _affine(f"downsample_layers.{stage}.1", (wide, narrow, DOWNSAMPLE_SIZE, DOWNSAMPLE_SIZE))
    for stage, (dim, depth) in enumerate(zip(dims, config.depths, strict=True)):
        for block in range(depth):
            shapes |= _block_shapes(f"stages.{stage}.{block}", dim, config.grn)
    shapes |= _affine("norm", (dims[-1],))
    return shapes | _head_shapes(config)


def parameter_count(config: ConvNeXtConfig) -> int:
    """Return the number of trained values."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())


def init_parameters(config: ConvNeXtConfig, seed: int) -> dict[str, np.ndarray]:
    """Return the initial parameters, float32, as a function of the seed and each parameter's name."""
    return {name: _initial_value(name, shape, config, seed) for name, shape in parameter_shapes(config).items()}


def _head_shapes(config: ConvNeXtConfig) -> dict[str, Shape]:
    if not config.num_classes:
        return {}
    widths = (config.dims[-1], *config.head_projection)
    shapes = _affine("head", (config.num_classes, widths[-1]))
    for index, (narrow, wide) in enumerate(itertools.pairwise(widths)):
        shapes |= _affine(f"head.projection.{index}", (wide, narrow))
    return shapes


def _affine(name: str, weight: Shape) -> dict[str, Shape]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _block_shapes(name: str, dim: int, grn: bool) -> dict[str, Shape]:
    hidden = EXPANSION * dim
    shapes = _affine(f"{name}.dwconv", (dim, 1, DEPTHWISE_SIZE, DEPTHWISE_SIZE)) | _affine(f"{name}.norm", (dim,))
    shapes |= _affine(f"{name}.pwconv1", (hidden, dim)) | _affine(f"{name}.pwconv2", (dim, hidden))
    if grn:
        return shapes | {f"{name}.grn.gamma": (1, 1, 1, hidden), f"{name}.grn.beta": (1, 1, 1, hidden)}
    return shapes | {f"{name}.gamma": (dim,)}


def _initial_value(name: str, shape: Shape, config: ConvNeXtConfig, seed: int) -> np.ndarray:
    """Return weights from N(0, 0.02); 1 for LayerNorm weights; `layer_scale_init` for V1's gamma; 0 for the rest.

    Facebook truncates at +-2, a hundred standard deviations, which no draw reaches.
    """
    is_weight = name.endswith(".weight")
    if is_weight and len(shape) == 1:
        return np.ones(shape, np.float32)
    if is_weight:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
        scale = config.head_init_scale if name == "head.weight" else 1.0
        return rng.standard_normal(shape, np.float32) * np.float32(WEIGHT_STD * scale)
    if name.endswith(".gamma") and not config.grn:
        return np.full(shape, config.layer_scale_init, np.float32)
    return np.zeros(shape, np.float32)
