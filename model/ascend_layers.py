"""The layers of `layers.py` on operators that CANN computes in one launch: the same parameters, the same function.

MindSpore compiles these operators for Ascend alone. Matrix product and bias, the exact GELU and LayerNorm are one
kernel each, and each rounds its result once, to the type of its input. So they compute in the network's low precision
at every level of mixed precision; LayerNorm's means, deviations and parameters are float32 all the same. The dry run
of `tests/ascend/` has selected their kernels; no device has run them.
"""

from mindspore import Tensor, mint, ops

from convnext_imagenet.model.layers import (
    DEPTHWISE_SIZE,
    Columns,
    DepthwiseConv,
    Gelu,
    LayerNorm,
    LayerSet,
    Linear,
    PatchConv,
    Residual,
)


class AscendLinear(Linear):
    """Product and bias as one operator."""

    def construct(self, x_NHWC: Tensor) -> Tensor:
        weight_DC, bias_D = ops.cast(self.weight, x_NHWC.dtype), ops.cast(self.bias, x_NHWC.dtype)
        return mint.nn.functional.linear(x_NHWC, weight_DC, bias_D)


class AscendPatchConv(PatchConv):
    """The product over patches with its bias as one operator."""

    def product(self, x_MP: Tensor, w_DP: Tensor, bias_D: Tensor) -> Tensor:
        """Return x_MP @ w_DP.T + bias_D, all of one type."""
        return mint.nn.functional.linear(x_MP, w_DP, bias_D)


class AscendDepthwiseConv(DepthwiseConv):
    """Convolution and bias as one operator; its gradient computes those of input, weight and bias together."""

    def construct(self, x_NHWC: Tensor) -> Tensor:
        weight, bias_C = ops.cast(self.weight, x_NHWC.dtype), ops.cast(self.bias, x_NHWC.dtype)
        x_NCHW = ops.transpose(x_NHWC, (0, 3, 1, 2))
        padding, channels = DEPTHWISE_SIZE // 2, x_NHWC.shape[-1]
        y_NCHW = mint.nn.functional.conv2d(x_NCHW, weight, bias_C, 1, padding, 1, channels)
        return ops.transpose(y_NCHW, (0, 2, 3, 1))


class AscendLayerNorm(LayerNorm):
    """Takes and returns the input's type; means, deviations and parameters are float32."""

    def construct(self, x_NHWC: Tensor) -> Tensor:
        return mint.nn.functional.layer_norm(x_NHWC, (x_NHWC.shape[-1],), self.weight, self.bias, self.epsilon)


class AscendGelu(Gelu):
    """The exact GELU as one operator each way, where `erf` takes ten."""

    def construct(self, x: Tensor) -> Tensor:
        if self.is_tanh:
            return mint.nn.functional.gelu(x, approximate="tanh")
        return mint.nn.functional.gelu(x)


class AscendResidual(Residual):
    """Scales in the input's type. CANN's one operator for this (Addcmul) has a gradient that widens to float32."""

    def add_scaled(self, x_NHWC: Tensor, branch_NHWC: Tensor, scale: Tensor) -> Tensor:
        """Return x_NHWC + branch_NHWC * scale; `scale` is (C,), (N, 1, 1, 1) or (N, 1, 1, C)."""
        return x_NHWC + branch_NHWC * ops.cast(scale, x_NHWC.dtype)


class AscendColumns(Columns):
    """Columns as views of the transposed matrix, in place of a kernel for each."""

    def construct(self, keep_NB: Tensor) -> tuple[Tensor, ...]:
        rows_BN = mint.split(ops.transpose(keep_NB, (1, 0)), 1)
        return tuple([ops.reshape(row, (-1,)) for row in rows_BN])


ASCEND = LayerSet(
    linear=AscendLinear,
    patch_conv=AscendPatchConv,
    depthwise_conv=AscendDepthwiseConv,
    layer_norm=AscendLayerNorm,
    gelu=AscendGelu,
    residual=AscendResidual,
    columns=AscendColumns,
)
