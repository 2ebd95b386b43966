"""RandomErasing in the compiled graph, on normalised pixels; the boxes and the noise's place are drawn on the host."""

from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


class DeviceErase(nn.Cell):
    """Fill boxes (N, K, 4) of float32 pixels (N, S, S, 3) with 0, with a colour, or with noise.

    `fill` is unused for "const", float32 colours (N, K, 3) for "rand", int32 places in `bank` (N,) for "pixel". Of
    boxes that overlap the later one wins.
    """

    def __init__(self, mode: Literal["const", "rand", "pixel"], bank: np.ndarray | None = None) -> None:
        super().__init__(auto_prefix=False)
        self.mode = mode
        values = np.zeros(1, np.float32) if bank is None else bank
        self.bank = Parameter(Tensor(values), name="erase_noise", requires_grad=False)

    def construct(self, x_NHWC: Tensor, boxes_NK4: Tensor, fill: Tensor | None) -> Tensor:
        for k in range(boxes_NK4.shape[1]):
            inside_NHWC = box_mask(boxes_NK4[:, k], x_NHWC.shape[1]) > 0
            x_NHWC = ops.select(inside_NHWC, self.filling(x_NHWC.shape, fill, k), x_NHWC)
        return x_NHWC

    def filling(self, shape: tuple[int, ...], fill: Tensor, k: int) -> Tensor:
        """What box k is filled with, over the whole batch."""
        if self.mode == "const":
            return ops.zeros(shape, ms.float32)
        if self.mode == "rand":
            return ops.broadcast_to(ops.reshape(fill[:, k], (-1, 1, 1, 3)), shape)
        places = ops.expand_dims(fill, 1) + ops.arange(0, shape[1] * shape[2] * shape[3])
        return ops.reshape(ops.gather(self.bank, places % self.bank.shape[0], 0), shape)


def box_mask(boxes_N4: Tensor, size_px: int) -> Tensor:
    """Return float32 (N, S, S, 3): 1 inside of each sample's box of top, left, bottom, right, 0 elsewhere.

    A product of matrices, which are exact in 0 and 1: on the CPU it takes a tenth of a broadcast.
    """
    at_S = ops.expand_dims(ops.arange(0, size_px), 0)
    at_S3 = ops.expand_dims(ops.arange(0, 3 * size_px) // 3, 0)
    rows_NS = ops.logical_and(at_S >= boxes_N4[:, 0:1], at_S < boxes_N4[:, 2:3])
    columns_NS3 = ops.logical_and(at_S3 >= boxes_N4[:, 1:2], at_S3 < boxes_N4[:, 3:4])
    down_NS1 = ops.expand_dims(ops.cast(rows_NS, ms.float32), 2)
    across_N1S3 = ops.expand_dims(ops.cast(columns_NS3, ms.float32), 1)
    return ops.reshape(ops.bmm(down_NS1, across_N1S3), (-1, size_px, size_px, 3))
