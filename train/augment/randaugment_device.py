"""RandAugment in the compiled graph: the operations of `randaugment_host` on a whole batch.

Each operation is of one of three kinds: an affine resampling, a blend with a degraded image, or a map of levels. Each
layer does all three kinds to every sample; a kind that was not drawn changes nothing. Levels and blends equal the
host's bit by bit. The resampling computes positions in float32, the host in float64. All operators (elementwise,
gather, reductions, cumulative sums, unsorted_segment_sum) exist in MindSpore for Ascend, GPU and CPU.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from convnext_imagenet.train.augment.erase import int32_range
from convnext_imagenet.train.augment.randaugment import Op
from convnext_imagenet.train.augment.randaugment_affine import DeviceAffine

_GRAY = (19595, 38470, 7471)  # Pillow's weights of R, G, B, in 1 / 65536


class DeviceRandAugment(nn.Cell):
    """uint8 pixels (N, S, S, 3), op ids int32 and arguments float32 (N, count) -> float32 whole levels, same shape.

    The graph is not compiled again for other ids or arguments.
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.affine = DeviceAffine()
        self.blend = _Blend()
        self.levels = _Levels()

    def construct(self, pixels_NHWC: Tensor, op_ids: Tensor, op_arguments: Tensor) -> Tensor:
        x_NHWC = ops.cast(pixels_NHWC, ms.float32)
        for layer in range(op_ids.shape[1]):
            op_N, argument_N = op_ids[:, layer], op_arguments[:, layer]
            x_NHWC = self.affine(x_NHWC, op_N, argument_N)
            x_NHWC = self.blend(x_NHWC, op_N, argument_N)
            x_NHWC = self.levels(x_NHWC, op_N, argument_N)
        return x_NHWC


def _is(op_N: Tensor, op: int) -> Tensor:
    return ops.equal(op_N, op)


def _cut(x: Tensor) -> Tensor:
    """Return whole levels as Image.blend makes them: clipped to 0..255 and rounded down."""
    return ops.floor(ops.clip_by_value(x, 0.0, 255.0))


def _gray(x_NHWC: Tensor) -> Tensor:
    """Return Pillow's gray (N, H, W, 1) of whole levels, computed in int32: the products need 24 bits."""
    red, green, blue = (ops.cast(x_NHWC[..., channel : channel + 1], ms.int32) for channel in range(3))
    weighted = red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2] + 0x8000
    return ops.cast(ops.floor_div(weighted, 65536), ms.float32)


class _Blend(nn.Cell):
    """Color and Sharpness: degraded + factor * (image - degraded)."""

    def construct(self, x_NHWC: Tensor, op_N: Tensor, argument_N: Tensor) -> Tensor:
        is_color, is_sharp = _is(op_N, int(Op.COLOR)), _is(op_N, int(Op.SHARPNESS))
        color_N111 = ops.reshape(ops.cast(is_color, ms.float32), (-1, 1, 1, 1))
        poorer = _gray(x_NHWC) * color_N111 + self.smoothed(x_NHWC) * (1.0 - color_N111)
        factor_N = ops.select(ops.logical_or(is_color, is_sharp), argument_N, ops.ones_like(argument_N))
        return _cut(poorer + ops.reshape(factor_N, (-1, 1, 1, 1)) * (x_NHWC - poorer))

    def smoothed(self, x_NHWC: Tensor) -> Tensor:
        """Return Pillow's SMOOTH filter: 1 1 1 / 1 5 1 / 1 1 1, divided by 13, rounded; the border stays."""
        rows = x_NHWC[:, :-2] + x_NHWC[:, 1:-1] + x_NHWC[:, 2:]
        sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4.0 * x_NHWC[:, 1:-1, 1:-1]
        inner = ops.cast(ops.floor_div(ops.cast(sums, ms.int32) * 2 + 13, 26), ms.float32)
        middle = ops.concat((x_NHWC[:, 1:-1, :1], inner, x_NHWC[:, 1:-1, -1:]), 2)
        return ops.concat((x_NHWC[:, :1], middle, x_NHWC[:, -1:]), 1)


class _Levels(nn.Cell):
    """Operations that map levels: one table (N, 3, 256) for the batch, and one look-up."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.levels = Tensor(np.arange(256, dtype=np.float32).reshape(1, 1, 256))
        self.counts = ops.UnsortedSegmentSum()
        self.lowest, self.highest = ops.ReduceMin(keep_dims=True), ops.ReduceMax(keep_dims=True)
        self.total = ops.ReduceSum(keep_dims=True)

    def construct(self, x_NHWC: Tensor, op_N: Tensor, argument_N: Tensor) -> Tensor:
        n, channels = x_NHWC.shape[0], x_NHWC.shape[3]
        rows = ops.reshape(int32_range(n * channels), (n, 1, 1, channels)) * 256
        bins = ops.cast(x_NHWC, ms.int32) + rows
        table = self.table(x_NHWC, bins, op_N, ops.reshape(argument_N, (n, 1, 1)))
        return ops.reshape(ops.gather(ops.reshape(table, (-1,)), ops.reshape(bins, (-1,)), 0), x_NHWC.shape)

    def table(self, x_NHWC: Tensor, bins: Tensor, op_N: Tensor, argument: Tensor) -> Tensor:
        """Return the table of each sample and channel, float32 (N, 3, 256)."""
        n, height, width, _ = x_NHWC.shape
        ones = ops.ones((n * height * width * 3,), ms.float32)
        counts = ops.reshape(self.counts(ones, ops.reshape(bins, (-1,)), n * 3 * 256), (n, 3, 256))
        levels = ops.broadcast_to(self.levels, (n, 3, 256))
        table = levels
        for op, candidate in (
            (Op.AUTO_CONTRAST, self.stretched(counts)),
            (Op.EQUALIZE, self.equalized(counts, height * width)),
            (Op.INVERT, 255.0 - levels),
            (Op.POSTERIZE, self.posterized(argument)),
            (Op.SOLARIZE, ops.select(levels < argument, levels, 255.0 - levels)),
            (Op.SOLARIZE_ADD, ops.select(levels < 128.0, ops.minimum(levels + argument, 255.0), levels)),
            (Op.CONTRAST, self.contrasted(x_NHWC, argument)),
            (Op.BRIGHTNESS, _cut(argument * levels)),
        ):
            chosen = ops.broadcast_to(ops.reshape(_is(op_N, int(op)), (n, 1, 1)), (n, 3, 256))
            table = ops.select(chosen, ops.broadcast_to(candidate, (n, 3, 256)), table)
        return table

    def posterized(self, bits: Tensor) -> Tensor:
        """Return the table that keeps only the highest `bits` bits."""
        step = ops.exp2(8.0 - bits)
        return ops.floor(self.levels / step) * step

    def contrasted(self, x_NHWC: Tensor, factor: Tensor) -> Tensor:
        """Return the table of a blend with the rounded mean of the gray image."""
        n, height, width, _ = x_NHWC.shape
        total = ops.reduce_sum(ops.cast(_gray(x_NHWC), ms.int32), (1, 2, 3))
        pixels = height * width
        mean = ops.cast(ops.floor_div(total * 2 + pixels, 2 * pixels), ms.float32)
        mean = ops.reshape(mean, (n, 1, 1))
        return _cut(mean + factor * (self.levels - mean))

    def stretched(self, counts: Tensor) -> Tensor:
        """Return the table that stretches the lowest..highest level of the image to 0..255."""
        levels = self.spread(counts)
        low = self.lowest(ops.select(counts > 0.0, levels, ops.ones_like(counts) * 255.0), -1)
        high = self.highest(ops.select(counts > 0.0, levels, ops.zeros_like(counts)), -1)
        span = ops.maximum(high - low, 1.0)
        # In whole numbers. Rounding the host's doubles down gives the same: a quotient is whole or far from whole.
        shifted = ops.cast((self.levels - low) * 255.0, ms.int32)
        stretched = ops.cast(ops.floor_div(shifted, ops.cast(span, ms.int32)), ms.float32)
        can = ops.broadcast_to(high > low, levels.shape)
        return ops.select(can, ops.clip_by_value(stretched, 0.0, 255.0), levels)

    def equalized(self, counts: Tensor, pixels: int) -> Tensor:
        """Return the table of histogram equalization in 255 steps, as Pillow's ImageOps.equalize computes it."""
        occurs = counts > 0.0
        high = self.highest(ops.select(occurs, self.spread(counts), ops.zeros_like(counts)), -1)
        of_highest = self.total(ops.select(self.spread(counts) == high, counts, ops.zeros_like(counts)), -1)
        step = ops.floor_div(ops.cast(pixels - of_highest, ms.int32), 255)
        below = ops.cast(ops.cumsum(counts, -1) - counts, ms.int32) + ops.floor_div(step, 2)
        levels = ops.floor_div(below, ops.maximum(step, ops.ones_like(step)))
        levels = ops.minimum(ops.cast(levels, ms.float32), 255.0)
        can = ops.broadcast_to(step > 0, levels.shape)
        return ops.select(can, levels, self.spread(counts))

    def spread(self, like: Tensor) -> Tensor:
        """Return the levels 0..255 in the shape of a table."""
        return ops.broadcast_to(self.levels, like.shape)
