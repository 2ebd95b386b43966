"""The layers of a ConvNeXt on MindSpore's own operators, channels last.

Parameters have Facebook's names and shapes. They are float32 and are cast to the input's type if that is lower. They
start at zero; `weights.assign_parameters` fills them. This file knows no blocks and no kernels; `ascend_layers.py` has
the same layers on the operators that an Ascend computes in one launch.
N batch, H W positions, C channels in, D channels out, M = N * H * W.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from mindspore import Parameter, Tensor, float32, nn, ops

from convnext_imagenet.model.variants import EPSILON, Activation

TANH_SCALE, TANH_CUBIC = (2 / math.pi) ** 0.5, 0.044715  # of GELU's tanh form (1606.08415, section 2)
SHORTEST = 1e-12  # length to divide an embedding by at least, as torch.nn.functional.normalize
DEPTHWISE_SIZE = 7  # section 2.5 of 2201.03545: larger kernels gained nothing


def zeros(*shape: int) -> Parameter:
    """Return a float32 parameter of zeros; MindSpore names it by the attribute of its cell."""
    return Parameter(Tensor(np.zeros(shape, np.float32)))


class Linear(nn.Cell):
    """A matrix product over the last axis, plus a bias: (..., C) -> (..., D)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = zeros(out_channels, channels)
        self.bias = zeros(out_channels)
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x_NHWC: Tensor) -> Tensor:
        shape = x_NHWC.shape
        x_MC = ops.reshape(x_NHWC, (-1, shape[-1]))
        y_MD = self.matmul(x_MC, ops.cast(self.weight, x_MC.dtype)) + ops.cast(self.bias, x_MC.dtype)
        return ops.reshape(y_MD, (*shape[:-1], y_MD.shape[-1]))


class CosineHead(nn.Cell):
    """Projects features, scales the result to length 1 and compares it with a row for each class: (N, C) -> (N, K).

    The projection has layers of `widths` with GELU between them, as CLIP's. Rows of the weight hold the embeddings of
    the classes times a scale. Computes in float32.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.projection = nn.CellList([Linear(*pair) for pair in itertools.pairwise((channels, *widths))])
        self.act = Gelu()
        self.weight = zeros(classes, widths[-1])
        self.bias = zeros(classes)
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x_NC: Tensor) -> Tensor:
        x_NC = self.projection[0](ops.cast(x_NC, float32))
        for layer in self.projection[1:]:
            x_NC = layer(self.act(x_NC))
        length_N1 = ops.sqrt(ops.sum(x_NC * x_NC, -1, True))
        return self.matmul(x_NC / ops.maximum(length_N1, SHORTEST), self.weight) + self.bias


class PatchConv(nn.Cell):
    """A convolution whose stride is its kernel's size `k`, so that it is one matrix product over patches.

    (N, H, W, C) -> (N, H // k, W // k, D). As in an unpadded convolution, pixels that do not fill a patch are ignored.
    """

    def __init__(self, channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.weight = zeros(out_channels, channels, size, size)
        self.bias = zeros(out_channels)
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, x_NHWC: Tensor) -> Tensor:
        k = self.size
        n, height, width, channels = x_NHWC.shape
        h, w = height // k, width // k
        if (h * k, w * k) != (height, width):
            x_NHWC = x_NHWC[:, : h * k, : w * k, :]
        x = ops.reshape(x_NHWC, (n * h, k, w, k * channels))
        x_MP = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (n * h * w, k * k * channels))
        w_DP = ops.reshape(ops.transpose(self.weight, (0, 2, 3, 1)), (-1, k * k * channels))
        y_MD = self.product(x_MP, ops.cast(w_DP, x_MP.dtype), ops.cast(self.bias, x_MP.dtype))
        return ops.reshape(y_MD, (n, h, w, y_MD.shape[-1]))

    def product(self, x_MP: Tensor, w_DP: Tensor, bias_D: Tensor) -> Tensor:
        """Return x_MP @ w_DP.T + bias_D, all of one type."""
        return self.matmul(x_MP, w_DP) + bias_D


class DepthwiseConv(nn.Cell):
    """A 7x7 convolution of each channel by itself, padded by 3, so that H and W do not change.

    MindSpore's CPU convolution knows only NCHW. The two transposes cost a third of the convolution; the bias is
    cheapest after them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = zeros(channels, 1, DEPTHWISE_SIZE, DEPTHWISE_SIZE)
        self.bias = zeros(channels)
        self.conv_NCHW = ops.Conv2D(
            channels, DEPTHWISE_SIZE, pad_mode="pad", pad=DEPTHWISE_SIZE // 2, stride=1, group=channels
        )

    def construct(self, x_NHWC: Tensor) -> Tensor:
        y_NCHW = self.conv_NCHW(ops.transpose(x_NHWC, (0, 3, 1, 2)), ops.cast(self.weight, x_NHWC.dtype))
        return ops.transpose(y_NCHW, (0, 2, 3, 1)) + ops.cast(self.bias, x_NHWC.dtype)


class LayerNorm(nn.Cell):
    """Normalisation over the last axis, always in float32, because float16 overflows."""

    def __init__(self, channels: int, epsilon: float = EPSILON) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = zeros(channels)
        self.bias = zeros(channels)
        self.layer_norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=epsilon)

    def construct(self, x_NHWC: Tensor) -> Tensor:
        y_NHWC = self.layer_norm(ops.cast(x_NHWC, float32), self.weight, self.bias)[0]
        return ops.cast(y_NHWC, x_NHWC.dtype)


class Gelu(nn.Cell):
    """The exact GELU, x * Phi(x), by the error function as in ConvNeXt, or its tanh form, MindSpore's default."""

    def __init__(self, activation: Activation = "gelu") -> None:
        super().__init__()
        self.is_tanh = activation == "gelu_tanh"

    def construct(self, x: Tensor) -> Tensor:
        if self.is_tanh:
            # (1 + tanh(y)) / 2 is sigmoid(2 y): MindSpore's tanh on the CPU is off by 1e-4 (DECISIONS, 2026-11-29)
            return x * ops.sigmoid(2.0 * TANH_SCALE * (x + TANH_CUBIC * (x * x * x)))
        half = x * 0.5
        return half + half * ops.erf(x * (0.5**0.5))


class GlobalResponseNorm(nn.Cell):
    """Global response normalisation of ConvNeXt V2 (2301.00808), in float32.

    gamma * (x * Nx) + beta + x with Nx = Gx / (mean_C(Gx) + eps) and Gx the L2 norm over the positions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = zeros(1, 1, 1, channels)
        self.beta = zeros(1, 1, 1, channels)
        self.matmul = ops.BatchMatMul()

    def construct(self, x_NHWC: Tensor) -> Tensor:
        n, height, width, channels = x_NHWC.shape
        x = ops.cast(x_NHWC, float32)
        squares = ops.reshape(x * x, (n, height * width, channels))
        # A product with ones, because MindSpore's CPU sum over a middle axis takes over twice as long.
        sum_N1C = self.matmul(ops.ones((n, 1, height * width), float32), squares)
        # Without the floor, the gradient of a dead channel would be NaN; it is far below any norm that matters.
        norm = ops.sqrt(ops.maximum(ops.reshape(sum_N1C, (n, 1, 1, channels)), 1e-24))
        share = norm / (ops.mean(norm, -1, True) + EPSILON)
        return ops.cast(x * (self.gamma * share + 1.0) + self.beta, x_NHWC.dtype)


class Residual(nn.Cell):
    """Adds a block's branch to its input, scaled by channel (layer scale) and by sample (drop path).

    V2 has no `gamma_C`. Without `keep_N` no branch is dropped.
    """

    def construct(
        self, x_NHWC: Tensor, branch_NHWC: Tensor, gamma_C: Tensor | None = None, keep_N: Tensor | None = None
    ) -> Tensor:
        if keep_N is None:
            return x_NHWC + branch_NHWC if gamma_C is None else self.add_scaled(x_NHWC, branch_NHWC, gamma_C)
        scale = ops.reshape(keep_N, (-1, 1, 1, 1))
        if gamma_C is not None:
            scale = scale * gamma_C
        return self.add_scaled(x_NHWC, branch_NHWC, scale)

    def add_scaled(self, x_NHWC: Tensor, branch_NHWC: Tensor, scale: Tensor) -> Tensor:
        """Return x_NHWC + branch_NHWC * scale; `scale` is (C,), (N, 1, 1, 1) or (N, 1, 1, C)."""
        return x_NHWC + branch_NHWC * scale


class Columns(nn.Cell):
    """(N, B) -> its B columns, each (N,): what drop path keeps of each block's branch."""

    def construct(self, keep_NB: Tensor) -> tuple[Tensor, ...]:
        return ops.unstack(keep_NB, 1)


class LayerSet(NamedTuple):
    """The classes that a network is built of. Those of another set have the same parameters and the same function."""

    linear: type[Linear] = Linear
    patch_conv: type[PatchConv] = PatchConv
    depthwise_conv: type[DepthwiseConv] = DepthwiseConv
    layer_norm: type[LayerNorm] = LayerNorm
    gelu: type[Gelu] = Gelu
    response_norm: type[GlobalResponseNorm] = GlobalResponseNorm
    residual: type[Residual] = Residual
    columns: type[Columns] = Columns


PLAIN = LayerSet()
