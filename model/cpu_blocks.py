"""The parts of `blocks.py` on our CPU kernels: the same parameters under the same names, float32.

With `low`, products of blocks and downsampling take values rounded to bfloat16, forward and backward, and add in
float32.

V1's block is one operator. V2's cannot be one, because its global response normalisation needs the whole image between
the two products (DECISIONS, 2026-11-24). `kernels/` holds what is fused and how.
"""

from pathlib import Path

from mindspore import Tensor, float32, ops

from convnext_imagenet.model.blocks import Block, Downsample, Stem
from convnext_imagenet.model.kernels.operators import (
    BlockKernel,
    DepthwiseKernel,
    GeluKernel,
    LayerNormKernel,
    NormPatchKernel,
    PatchKernel,
)


class CpuStem(Stem):
    """A matrix product over patches, then LayerNorm."""

    def __init__(self, dim: int, library: Path) -> None:
        super().__init__(dim)
        self.patch = PatchKernel(library)
        self.layer_norm = LayerNormKernel(library)

    def construct(self, x_NHWC: Tensor) -> Tensor:
        conv, norm = self[0], self[1]
        return self.layer_norm(self.patch(x_NHWC, conv.weight, conv.bias), norm.weight, norm.bias)


class CpuDownsample(Downsample):
    """LayerNorm and the matrix product over patches as one operator."""

    def __init__(self, narrow: int, wide: int, library: Path, low: bool = False) -> None:
        super().__init__(narrow, wide)
        self.norm_patch = NormPatchKernel(library, low)

    def construct(self, x_NHWC: Tensor) -> Tensor:
        norm, conv = self[0], self[1]
        return self.norm_patch(x_NHWC, norm.weight, norm.bias, conv.weight, conv.bias)


class CpuBlock(Block):
    """V1's block as one operator; V2's as four operators around GRN."""

    def __init__(self, dim: int, grn: bool, library: Path, low: bool = False) -> None:
        super().__init__(dim, grn)
        if grn:
            self.depthwise = DepthwiseKernel(library)
            self.norm_expand = NormPatchKernel(library, low)
            self.gelu = GeluKernel(library)
            self.reduce = PatchKernel(library, low)
        else:
            self.whole = BlockKernel(library, low)

    def construct(self, x_NHWC: Tensor, keep_N: Tensor | None = None) -> Tensor:
        dw, norm, expand, reduce = self.dwconv, self.norm, self.pwconv1, self.pwconv2
        if self.grn is None:
            if keep_N is None:
                keep_N = ops.ones((x_NHWC.shape[0],), float32)  # the operator has no optional inputs
            return self.whole(
                x_NHWC, dw.weight, dw.bias, norm.weight, norm.bias, expand.weight, expand.bias, reduce.weight,
                reduce.bias, self.gamma, keep_N,
            )  # fmt: skip
        d_NHWC = self.depthwise(x_NHWC, dw.weight, dw.bias)
        hidden = self.gelu(self.norm_expand(d_NHWC, norm.weight, norm.bias, expand.weight, expand.bias))
        branch = self.reduce(self.grn(hidden), reduce.weight, reduce.bias)
        return self.residual(x_NHWC, branch, self.gamma, keep_N)
