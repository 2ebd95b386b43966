"""Mixup, cutmix and soft targets in the compiled graph; row i mixes with row N - 1 - i."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from convnext_imagenet.train.device_erase import box_mask


class DeviceMix(nn.Cell):
    """Replace float32 pixels (N, S, S, 3) inside a row's box by its partner's, and blend them in elsewhere.

    boxes int32 (N, 4), blend float32 (N,): the partner's weight outside of the box (`mix_draws.Mix`).
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def construct(self, x_NHWC: Tensor, boxes_N4: Tensor, blend_N: Tensor) -> Tensor:
        rows = x_NHWC.shape[0]
        inside_NHWC = box_mask(boxes_N4, x_NHWC.shape[1])
        weight_NHWC = inside_NHWC + (1.0 - inside_NHWC) * ops.reshape(blend_N, (-1, 1, 1, 1))
        # Rows are gathered, since on the CPU a reversal takes 15 times as long.
        partners_NHWC = ops.gather(x_NHWC, ops.arange(rows - 1, -1, -1), 0)
        return x_NHWC * (1.0 - weight_NHWC) + partners_NHWC * weight_NHWC


class SoftTargets(nn.Cell):
    """Labels (N,) int32 -> targets (N, K): each row's smoothed label by `lam`, its partner's by 1 - lam.

    A label smoothed by s is s / K everywhere and 1 - s more at the class itself; without `lam` nothing is mixed.
    """

    def __init__(self, num_classes: int, smoothing: float) -> None:
        super().__init__(auto_prefix=False)
        self.num_classes = num_classes
        self.off_value = smoothing / num_classes
        self.on_value = 1.0 - smoothing + self.off_value
        self.reverse = ops.ReverseV2(axis=[0])

    def construct(self, labels_N: Tensor, lam_N: Tensor | None) -> Tensor:
        own_NK = ops.one_hot(
            labels_N,
            self.num_classes,
            Tensor(self.on_value, ms.float32),
            Tensor(self.off_value, ms.float32),
        )
        if lam_N is None:
            return own_NK
        lam_N1 = ops.expand_dims(lam_N, 1)
        return own_NK * lam_N1 + self.reverse(own_NK) * (1.0 - lam_N1)
