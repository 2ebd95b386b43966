"""The part of augmentation that runs in the compiled graph, on uint8 pixels and small tensors of draws.

Draws come from the host, so this cell holds no randomness. Erase, mixup and cutmix belong here, between
`normalise` and the return, and in `soft_targets`.
"""

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class DeviceAugment(nn.Cell):
    """uint8 pixels (N, S, S, 3) and flips (N,) bool -> mirrored, normalised float32 pixels (N, S, S, 3).

    `mean` and `std` are per RGB channel, of pixels in [0, 1].
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(auto_prefix=False)
        mean_C, std_C = np.asarray(mean, np.float64) * 255.0, np.asarray(std, np.float64) * 255.0
        self.scale_C = Tensor((1.0 / std_C).astype(np.float32))
        self.shift_C = Tensor((-mean_C / std_C).astype(np.float32))

    def construct(self, pixels_NHWC: Tensor, flip_N: Tensor) -> Tensor:
        width = pixels_NHWC.shape[2]
        # Mirrors the first `width` or the first 1 columns of each sample: on the CPU 7 times faster than
        # flipping the batch and selecting.
        mirrored_N = ops.cast(flip_N, ms.int32) * (width - 1) + 1
        mirrored_NHWC = ops.reverse_sequence(pixels_NHWC, mirrored_N, 2, 0)
        return ops.cast(mirrored_NHWC, ms.float32) * self.scale_C + self.shift_C


class SoftTargets(nn.Cell):
    """Labels (N,) int32 -> smoothed targets (N, K): smoothing / K, plus 1 - smoothing at the label."""

    def __init__(self, num_classes: int, smoothing: float) -> None:
        super().__init__(auto_prefix=False)
        self.num_classes = num_classes
        self.off_value = smoothing / num_classes
        self.on_value = 1.0 - smoothing + self.off_value

    def construct(self, labels_N: Tensor) -> Tensor:
        return ops.one_hot(
            labels_N,
            self.num_classes,
            Tensor(self.on_value, ms.float32),
            Tensor(self.off_value, ms.float32),
        )
