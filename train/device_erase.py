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
            inside_NHW1 = box_mask(boxes_NK4[:, k], x_NHWC.shape[1])
            x_NHWC = ops.select(
                ops.broadcast_to(inside_NHW1, x_NHWC.shape), self.filling(x_NHWC.shape, fill, k), x_NHWC
            )
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
    """Return bool (N, S, S, 1), true inside of each sample's box of top, left, bottom, right."""
    at_S = ops.expand_dims(ops.arange(0, size_px), 0)
    rows_NS = ops.logical_and(at_S >= boxes_N4[:, 0:1], at_S < boxes_N4[:, 2:3])
    columns_NS = ops.logical_and(at_S >= boxes_N4[:, 1:2], at_S < boxes_N4[:, 3:4])
    return ops.logical_and(ops.reshape(rows_NS, (-1, size_px, 1, 1)), ops.reshape(columns_NS, (-1, 1, size_px, 1)))
