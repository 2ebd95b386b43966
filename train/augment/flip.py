"""The random flip: its draws, and the cell that applies them. If RandAugment runs on the host, the host mirrors."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from convnext_imagenet.records.keyed_random import keyed_rng


def flips(seed: int, epoch: int, sample_ids: np.ndarray, probability: float) -> np.ndarray:
    """Return bool (N,): whether each sample is mirrored left to right."""
    draws = [keyed_rng(seed, epoch, int(sample_id), "flip").random() for sample_id in sample_ids]
    return np.asarray(draws) < probability


class DeviceFlip(nn.Cell):
    """Mirror uint8 pixels (N, S, S, 3) left to right where flip_N, bool (N,), is true."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def construct(self, pixels_NHWC: Tensor, flip_N: Tensor) -> Tensor:
        # Reverses the first `width` columns or only the first 1, which changes nothing: on the CPU 7 times faster than
        # flipping the batch and selecting.
        mirrored_N = ops.cast(flip_N, ms.int32) * (pixels_NHWC.shape[2] - 1) + 1
        return ops.reverse_sequence(pixels_NHWC, mirrored_N, 2, 0)


class AscendFlip(DeviceFlip):
    """The same, as float32 (N, S, S, 3), by reversing all rows: ReverseSequence would run on an Ascend's AI CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.reverse = ops.ReverseV2(axis=[2])

    def construct(self, pixels_NHWC: Tensor, flip_N: Tensor) -> Tensor:
        x_NHWC = ops.cast(pixels_NHWC, ms.float32)
        return ops.select(ops.reshape(flip_N, (-1, 1, 1, 1)), self.reverse(x_NHWC), x_NHWC)
