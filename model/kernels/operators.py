"""The kernels as MindSpore Cells with gradients; float32, channels last. With `low`, products take bfloat16.

Each class binds functions of the library and states their shapes; the C++ files hold what they compute.
N batch, H W positions, C channels, M hidden channels, D channels out, k patch size.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from mindspore import Tensor, float32, int16, nn, ops

Shape = Sequence[int]


def operator(
    library: Path,
    name: str,
    outputs: int,
    shapes: Callable[..., Shape | tuple[Shape, ...]],
    dtypes: tuple[object, ...] = (),
) -> ops.Custom:
    """Return the library's function as an operator; `shapes` computes the outputs' shapes from the inputs' shapes.

    `dtypes` are the types of several outputs, float32 if empty.
    """

    def types(*_: object) -> object:
        return float32 if outputs == 1 else dtypes or (float32,) * outputs

    return ops.Custom(f"{library}:{name}", out_shape=shapes, out_dtype=types, func_type="aot")


def _named(function: str, low: bool) -> str:
    return f"{function}_bfloat16" if low else function


def _same(x: Shape, *_: Shape) -> Shape:
    return x


def _block_training(x: Shape, dw: Shape, db: Shape, g: Shape, b: Shape, expand: Shape, *_: Shape) -> tuple[Shape, ...]:
    return x, x, [x[0], x[1], x[2], expand[0]]


def _block_gradient(
    slope: Shape, x: Shape, d: Shape, z: Shape, dw: Shape, g: Shape, b: Shape, expand: Shape, reduce: Shape, *_: Shape
) -> tuple[Shape, ...]:
    c = [x[3]]
    return x, dw, c, c, c, expand, [expand[0]], reduce, c, c


class BlockKernel(nn.Cell):
    """A whole V1 block: x, its nine parameters in Facebook's order, keep (N) -> out.

    In training it also stores the depthwise output and the expanded values for the gradient.
    """

    def __init__(self, library: Path, low: bool = False) -> None:
        super().__init__()
        self.inference = operator(library, _named("convnext_block", low), 1, _same)
        self.saving = _SavingBlock(library, low)

    def construct(
        self,
        x_NHWC: Tensor,
        depthwise: Tensor,
        depthwise_bias: Tensor,
        norm: Tensor,
        norm_bias: Tensor,
        expand_MC: Tensor,
        expand_bias_M: Tensor,
        reduce_CM: Tensor,
        reduce_bias_C: Tensor,
        gamma_C: Tensor,
        keep_N: Tensor,
    ) -> Tensor:
        if self.training:
            return self.saving(
                x_NHWC, depthwise, depthwise_bias, norm, norm_bias, expand_MC, expand_bias_M, reduce_CM,
                reduce_bias_C, gamma_C, keep_N,
            )[0]  # fmt: skip
        return self.inference(
            x_NHWC, depthwise, depthwise_bias, norm, norm_bias, expand_MC, expand_bias_M, reduce_CM,
            reduce_bias_C, gamma_C, keep_N,
        )  # fmt: skip


class _SavingBlock(nn.Cell):
    """The block with what its gradient needs; only the first output may be used, the others have no gradient."""

    def __init__(self, library: Path, low: bool) -> None:
        super().__init__()
        expanded = int16 if low else float32  # the bits of bfloat16, which MindSpore does not compute in on the CPU
        dtypes = (float32, float32, expanded)
        self.forward = operator(library, _named("convnext_block_training", low), 3, _block_training, dtypes)
        self.gradient = operator(library, _named("convnext_block_gradient", low), 10, _block_gradient)

    def construct(
        self,
        x: Tensor,
        dw: Tensor,
        dw_b: Tensor,
        norm: Tensor,
        norm_b: Tensor,
        expand: Tensor,
        expand_b: Tensor,
        reduce: Tensor,
        reduce_b: Tensor,
        gamma: Tensor,
        keep: Tensor,
    ) -> tuple[Tensor, ...]:
        return self.forward(x, dw, dw_b, norm, norm_b, expand, expand_b, reduce, reduce_b, gamma, keep)

    def bprop(
        self,
        x: Tensor,
        dw: Tensor,
        dw_b: Tensor,
        norm: Tensor,
        norm_b: Tensor,
        expand: Tensor,
        expand_b: Tensor,
        reduce: Tensor,
        reduce_b: Tensor,
        gamma: Tensor,
        keep: Tensor,
        out: tuple[Tensor, ...],
        slopes: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        g = self.gradient(slopes[0], x, out[1], out[2], dw, norm, norm_b, expand, reduce, reduce_b, gamma, keep)
        return g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7], g[8], g[9], ops.zeros_like(keep)


def _patch(x: Shape, weight: Shape, *_: Shape) -> Shape:
    k = weight[2] if len(weight) == 4 else 1
    return [x[0], x[1] // k, x[2] // k, weight[0]]


def _norm_patch(x: Shape, norm: Shape, norm_bias: Shape, weight: Shape, *_: Shape) -> Shape:
    return _patch(x, weight)


def _weight_gradient(slope: Shape, x: Shape, weight: Shape) -> tuple[Shape, ...]:
    return x, weight, [weight[0]]


def _norm_patch_gradient(slope: Shape, x: Shape, norm: Shape, norm_bias: Shape, weight: Shape) -> tuple[Shape, ...]:
    return x, norm, norm_bias, weight, [weight[0]]


class PatchKernel(nn.Cell):
    """A convolution whose stride is its size, weight (D, C, k, k), or a Linear, weight (D, C)."""

    def __init__(self, library: Path, low: bool = False) -> None:
        super().__init__()
        self.forward = operator(library, _named("convnext_patch", low), 1, _patch)
        self.gradient = operator(library, _named("convnext_patch_gradient", low), 3, _weight_gradient)

    def construct(self, x_NHWC: Tensor, weight: Tensor, bias_D: Tensor) -> Tensor:
        return self.forward(x_NHWC, weight, bias_D)

    def bprop(self, x_NHWC: Tensor, weight: Tensor, bias_D: Tensor, out: object, slope: Tensor) -> tuple[Tensor, ...]:
        g = self.gradient(slope, x_NHWC, weight)
        return g[0], g[1], g[2]


class NormPatchKernel(nn.Cell):
    """LayerNorm, then the product of PatchKernel, as one operator."""

    def __init__(self, library: Path, low: bool = False) -> None:
        super().__init__()
        self.forward = operator(library, _named("convnext_norm_patch", low), 1, _norm_patch)
        self.gradient = operator(library, _named("convnext_norm_patch_gradient", low), 5, _norm_patch_gradient)

    def construct(self, x_NHWC: Tensor, norm_C: Tensor, norm_bias_C: Tensor, weight: Tensor, bias_D: Tensor) -> Tensor:
        return self.forward(x_NHWC, norm_C, norm_bias_C, weight, bias_D)

    def bprop(
        self,
        x_NHWC: Tensor,
        norm_C: Tensor,
        norm_bias_C: Tensor,
        weight: Tensor,
        bias_D: Tensor,
        out: object,
        slope: Tensor,
    ) -> tuple[Tensor, ...]:
        g = self.gradient(slope, x_NHWC, norm_C, norm_bias_C, weight)
        return g[0], g[1], g[2], g[3], g[4]


class LayerNormKernel(nn.Cell):
    """LayerNorm over the last axis, with epsilon 1e-6."""

    def __init__(self, library: Path) -> None:
        super().__init__()
        self.forward = operator(library, "convnext_layer_norm", 1, _same)
        self.gradient = operator(library, "convnext_layer_norm_gradient", 3, _weight_gradient)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: object, slope: Tensor) -> tuple[Tensor, ...]:
        g = self.gradient(slope, x, weight)
        return g[0], g[1], g[2]


class DepthwiseKernel(nn.Cell):
    """The depthwise 7x7 convolution, weight (C, 1, 7, 7)."""

    def __init__(self, library: Path) -> None:
        super().__init__()
        self.forward = operator(library, "convnext_depthwise", 1, _same)
        self.gradient = operator(library, "convnext_depthwise_gradient", 3, _weight_gradient)

    def construct(self, x_NHWC: Tensor, weight: Tensor, bias_C: Tensor) -> Tensor:
        return self.forward(x_NHWC, weight, bias_C)

    def bprop(self, x_NHWC: Tensor, weight: Tensor, bias_C: Tensor, out: object, slope: Tensor) -> tuple[Tensor, ...]:
        g = self.gradient(slope, x_NHWC, weight)
        return g[0], g[1], g[2]


class GeluKernel(nn.Cell):
    """The exact GELU, by the error function."""

    def __init__(self, library: Path) -> None:
        super().__init__()
        self.forward = operator(library, "convnext_gelu", 1, _same)
        self.gradient = operator(library, "convnext_gelu_gradient", 1, _same)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: object, slope: Tensor) -> tuple[Tensor, ...]:
        return (self.gradient(slope, x),)
