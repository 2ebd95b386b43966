"""Affine resampling of a batch in the compiled graph: RandAugment's rotations, shears and translations.

Bicubic like Pillow's `Image.transform`: cubic convolution with a = -1 over 4 x 4 pixels. Pixels at the border are
repeated, positions outside the image get the fill colour, and results are rounded down to whole levels.
"""

import math

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from convnext_imagenet.train.augment.erase import int32_range
from convnext_imagenet.train.augment.randaugment import Op
from convnext_imagenet.train.augment.randaugment_host import FILL_RGB

_DEGREE = math.pi / 180.0


class DeviceAffine(nn.Cell):
    """Whole levels float32 (N, H, W, 3), ops int32 and arguments (N,) -> the same, resampled where the op is affine."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.fill = Tensor(np.array(FILL_RGB, np.float32).reshape(1, 1, 3))

    def construct(self, x_NHWC: Tensor, op_N: Tensor, argument_N: Tensor) -> Tensor:
        n, height, width, channels = x_NHWC.shape
        from_x, from_y = self.sources(op_N, argument_N, height, width)
        left, top = ops.floor(from_x - 0.5), ops.floor(from_y - 0.5)
        across, down = (ops.expand_dims(share, 2) for share in (from_x - 0.5 - left, from_y - 0.5 - top))
        left, top = ops.cast(left, ms.int32), ops.cast(top, ms.int32)
        flat = ops.reshape(x_NHWC, (n * height * width, channels))
        first_N1 = ops.reshape(int32_range(n), (n, 1)) * (height * width)
        lines = []
        for j in range(-1, 3):
            row = first_N1 + ops.clip_by_value(top + j, 0, height - 1) * width
            indices = [row + ops.clip_by_value(left + i, 0, width - 1) for i in range(-1, 3)]
            lines.append(self.cubic([ops.gather(flat, index, 0) for index in indices], across))
        levels = ops.floor(ops.clip_by_value(self.cubic(lines, down), 0.0, 255.0))
        is_inside = self.is_inside(from_x, from_y, height, width)
        filled = ops.select(is_inside, levels, ops.broadcast_to(self.fill, levels.shape))
        is_affine = ops.logical_and(op_N >= int(Op.SHEAR_X), op_N <= int(Op.TRANSLATE_Y))
        is_affine = ops.logical_or(is_affine, ops.equal(op_N, int(Op.ROTATE)))
        resampled = ops.reshape(filled, x_NHWC.shape)
        return ops.select(ops.broadcast_to(ops.reshape(is_affine, (n, 1, 1, 1)), x_NHWC.shape), resampled, x_NHWC)

    def sources(self, op_N: Tensor, argument_N: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the source x and y of the pixels' centres, both (N, H * W); unchanged where no operation is affine."""
        a, b, c, d, e, f = (ops.expand_dims(value, 1) for value in self.matrix(op_N, argument_N, height, width))
        x_1P = ops.cast(ops.reshape(int32_range(height * width) % width, (1, -1)), ms.float32) + 0.5
        y_1P = ops.cast(ops.reshape(ops.floor_div(int32_range(height * width), width), (1, -1)), ms.float32) + 0.5
        return a * x_1P + b * y_1P + c, d * x_1P + e * y_1P + f

    def matrix(self, op_N: Tensor, argument_N: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return the six numbers of `randaugment_host.affine_matrix`, each (N,)."""
        zero = ops.zeros_like(argument_N)
        angle = self.where(op_N, Op.ROTATE, argument_N * _DEGREE, zero)
        cosine, sine = ops.cos(angle), -ops.sin(angle)
        x, y = width / 2, height / 2
        b = sine + self.where(op_N, Op.SHEAR_X, argument_N, zero)
        c = x - cosine * x - sine * y + self.where(op_N, Op.TRANSLATE_X, argument_N * width, zero)
        d = self.where(op_N, Op.SHEAR_Y, argument_N, zero) - sine
        f = y + sine * x - cosine * y + self.where(op_N, Op.TRANSLATE_Y, argument_N * height, zero)
        return cosine, b, c, d, cosine, f

    def where(self, op_N: Tensor, op: int, value_N: Tensor, other_N: Tensor) -> Tensor:
        """Return `value_N` where `op` was drawn, else `other_N`."""
        return ops.select(ops.equal(op_N, int(op)), value_N, other_N)

    def cubic(self, values: list[Tensor], share: Tensor) -> Tensor:
        """Return the cubic through four values at `share` (0..1) after the second; exact if all are equal."""
        v1, v2, v3, v4 = values
        return v2 + share * (v3 - v1 + share * (2.0 * (v1 - v2) + v3 - v4 + share * (v2 - v1 + v4 - v3)))

    def is_inside(self, from_x: Tensor, from_y: Tensor, height: int, width: int) -> Tensor:
        """Return bool (N, H * W, 3): whether positions are within the image."""
        across = ops.logical_and(from_x >= 0.0, from_x < float(width))
        down = ops.logical_and(from_y >= 0.0, from_y < float(height))
        both = ops.expand_dims(ops.logical_and(across, down), 2)
        return ops.broadcast_to(both, (*from_x.shape, 3))
