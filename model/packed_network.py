"""The network for inference on our CPU kernels: weights are packed once, as float32 or rounded to bfloat16.

It has no gradient and no parameters by name: `convnext.ConvNeXt` is the network that trains.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from convnext_imagenet.model.blocks import DOWNSAMPLE_SIZE, STEM_SIZE
from convnext_imagenet.model.kernels.operators import Shape, operator
from convnext_imagenet.model.kernels.products import Unit, pack_block, pack_patch
from convnext_imagenet.model.layers import LayerNorm, Linear
from convnext_imagenet.model.variants import STAGES, ConvNeXtConfig

Arrays = Mapping[str, np.ndarray]


class PackedConvNeXt(nn.Cell):
    """Normalised images (N, H, W, 3) -> logits (N, K), float32; `arrays` are the parameters by Facebook's names.

    Products of a bfloat16 `unit` take values rounded to bfloat16 and add in float32, except those of stem and head
    (DECISIONS, 2026-11-29); then a row's result depends neither on the other rows nor on its position. With float32 the
    results are those of `ConvNeXt`, bit for bit.
    """

    def __init__(self, config: ConvNeXtConfig, arrays: Arrays, library: Path, unit: Unit) -> None:
        super().__init__()
        self.config = config
        cells: list[nn.Cell] = []
        for stage in range(STAGES):
            name = f"downsample_layers.{stage}"
            cells.append(_pack_downsample(arrays, name, library, unit) if stage else _pack_stem(arrays, name, library))
            for block in range(config.depths[stage]):
                packed = pack_block(library, unit, _below(arrays, f"stages.{stage}.{block}."))
                cells.append(_Packed(library, "convnext_packed_block", packed, _same))
        self.body = nn.SequentialCell(cells)
        head = (arrays["norm.weight"], arrays["norm.bias"], arrays["head.weight"], arrays["head.bias"])
        if unit is Unit.FLOAT32:
            self.norm, self.head = _MeanNorm(*head[:2]), _linear(*head[2:])
        else:
            self.norm, self.head = _PooledNorm(library, *head[:2]), _PackedHead(library, *head[2:])

    def construct(self, x_NHWC: Tensor, keep_NB: Tensor | None = None) -> Tensor:
        return self.head(self.features(x_NHWC, keep_NB))

    def features(self, x_NHWC: Tensor, keep_NB: Tensor | None = None) -> Tensor:
        """Return the pooled and normalised features (N, C) that the head classifies; `keep_NB` must be None."""
        return self.norm(self.body(x_NHWC))


class _Packed(nn.Cell):
    """A function of the library on a tensor and packed weights."""

    def __init__(self, library: Path, name: str, packed: np.ndarray, shape: Callable[..., Shape]) -> None:
        super().__init__()
        self.weights = Parameter(Tensor(packed), requires_grad=False)
        self.kernel = operator(library, name, 1, shape)

    def construct(self, x_NHWC: Tensor) -> Tensor:
        return self.kernel(x_NHWC, self.weights)


class _PackedHead(nn.Cell):
    def __init__(self, library: Path, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.product = _packed_patch(library, 1, pack_patch(library, Unit.FLOAT32, (weight, bias)), len(bias))

    def construct(self, x_NC: Tensor) -> Tensor:
        y_N11D = self.product(ops.reshape(x_NC, (x_NC.shape[0], 1, 1, x_NC.shape[1])))
        return ops.reshape(y_N11D, (x_NC.shape[0], -1))


class _PooledNorm(nn.Cell):
    """LayerNorm of the mean over the positions, each row by itself."""

    def __init__(self, library: Path, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight, self.bias = (Parameter(Tensor(array), requires_grad=False) for array in (weight, bias))
        self.kernel = operator(library, "convnext_pooled_norm", 1, _pooled)

    def construct(self, x_NHWC: Tensor) -> Tensor:
        return self.kernel(x_NHWC, self.weight, self.bias)


class _MeanNorm(nn.Cell):
    """The same by MindSpore's operators, as `ConvNeXt` computes it."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.norm = LayerNorm(len(weight))
        self.norm.weight.set_data(Tensor(weight))
        self.norm.bias.set_data(Tensor(bias))

    def construct(self, x_NHWC: Tensor) -> Tensor:
        return self.norm(ops.mean(x_NHWC, (1, 2)))


def _linear(weight: np.ndarray, bias: np.ndarray) -> Linear:
    linear = Linear(weight.shape[1], weight.shape[0])
    linear.weight.set_data(Tensor(weight))
    linear.bias.set_data(Tensor(bias))
    return linear


def _pack_stem(arrays: Arrays, name: str, library: Path) -> _Packed:
    conv, norm = _pair(arrays, f"{name}.0"), _pair(arrays, f"{name}.1")
    return _packed_patch(library, STEM_SIZE, pack_patch(library, Unit.FLOAT32, conv, last_norm=norm), len(conv[1]))


def _pack_downsample(arrays: Arrays, name: str, library: Path, unit: Unit) -> _Packed:
    norm, conv = _pair(arrays, f"{name}.0"), _pair(arrays, f"{name}.1")
    return _packed_patch(library, DOWNSAMPLE_SIZE, pack_patch(library, unit, conv, norm=norm), len(conv[1]))


def _pair(arrays: Arrays, name: str) -> Sequence[np.ndarray]:
    return arrays[f"{name}.weight"], arrays[f"{name}.bias"]


def _below(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _packed_patch(library: Path, size: int, packed: np.ndarray, out: int) -> _Packed:
    def shape(x: Shape, *_: Shape) -> Shape:
        return [x[0], x[1] // size, x[2] // size, out]

    return _Packed(library, "convnext_packed_patch", packed, shape)


def _same(x: Shape, *_: Shape) -> Shape:
    return x


def _pooled(x: Shape, *_: Shape) -> Shape:
    return [x[0], x[3]]
