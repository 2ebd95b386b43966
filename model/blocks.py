"""Stem, downsampling and block of a ConvNeXt from the layers of a `LayerSet`; `cpu_blocks.py` has our CPU kernels."""

from mindspore import Tensor, nn

from convnext_imagenet.model.layers import PLAIN, LayerSet, zeros
from convnext_imagenet.model.variants import EPSILON, Activation

STEM_SIZE = 4  # pixels on each side of a patch
DOWNSAMPLE_SIZE = 2  # the same, between two stages
EXPANSION = 4  # the hidden layer of a block has four times its channels


class Stem(nn.SequentialCell):
    """Pixels (N, H, W, 3) to patches (N, H / 4, W / 4, C), normalised."""

    def __init__(self, dim: int, layers: LayerSet = PLAIN, epsilon: float = EPSILON) -> None:
        super().__init__(layers.patch_conv(3, dim, STEM_SIZE), layers.layer_norm(dim, epsilon))


class Downsample(nn.SequentialCell):
    """(N, H, W, `narrow`) to (N, H / 2, W / 2, `wide`), after LayerNorm."""

    def __init__(self, narrow: int, wide: int, layers: LayerSet = PLAIN, epsilon: float = EPSILON) -> None:
        super().__init__(layers.layer_norm(narrow, epsilon), layers.patch_conv(narrow, wide, DOWNSAMPLE_SIZE))


class Block(nn.Cell):
    """Depthwise 7x7 -> LayerNorm -> 4C -> GELU (-> GRN in V2) -> C (-> layer scale in V1), added to its input."""

    def __init__(
        self,
        dim: int,
        grn: bool,
        layers: LayerSet = PLAIN,
        epsilon: float = EPSILON,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.dwconv = layers.depthwise_conv(dim)
        self.norm = layers.layer_norm(dim, epsilon)
        self.pwconv1 = layers.linear(dim, EXPANSION * dim)
        self.act = layers.gelu(activation)
        self.grn = layers.response_norm(EXPANSION * dim) if grn else None
        self.pwconv2 = layers.linear(EXPANSION * dim, dim)
        self.gamma = None if grn else zeros(dim)
        self.residual = layers.residual()

    def construct(self, x_NHWC: Tensor, keep_N: Tensor | None = None) -> Tensor:
        branch = self.act(self.pwconv1(self.norm(self.dwconv(x_NHWC))))
        if self.grn is not None:
            branch = self.grn(branch)
        return self.residual(x_NHWC, self.pwconv2(branch), self.gamma, keep_N)
