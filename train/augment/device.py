"""The part of augmentation that runs in the compiled graph: from uint8 pixels and small tensors of draws to the
network's input.

Draws come from the host, so no cell here holds randomness; the order is timm's: flip, RandAugment, normalise, erase,
mix.
"""

import mindspore as ms
from mindspore import Tensor, nn, ops

from convnext_imagenet.model.transform import EvalTransform, scale_and_shift
from convnext_imagenet.train.augment.erase import DeviceErase, noise_bank
from convnext_imagenet.train.augment.mix import DeviceMix
from convnext_imagenet.train.augment.randaugment_device import DeviceRandAugment
from convnext_imagenet.train.config.sections import AugmentSection


class DeviceAugment(nn.Cell):
    """uint8 pixels (N, S, S, 3) and the draws of `DeviceDraws` -> float32 pixels (N, S, S, 3) as the network sees them.

    A draw that is None leaves its part out. `mean` and `std` of `transform` are per RGB channel, of pixels in [0, 1].
    """

    def __init__(self, section: AugmentSection, transform: EvalTransform, seed: int) -> None:
        super().__init__(auto_prefix=False)
        self.scale_C, self.shift_C = map(Tensor, scale_and_shift(transform))
        self.rand_augment = DeviceRandAugment()
        self.erase = DeviceErase(section.erase_mode, noise_bank(seed) if _needs_noise(section) else None)
        self.mix = DeviceMix()

    def construct(
        self,
        pixels_NHWC: Tensor,
        flip_N: Tensor | None,
        op_ids: Tensor | None,
        op_arguments: Tensor | None,
        erase_boxes: Tensor | None,
        erase_fill: Tensor | None,
        mix_boxes: Tensor | None,
        mix_blend: Tensor | None,
    ) -> Tensor:
        if flip_N is not None:
            # Mirrors the first `width` or the first 1 columns of each sample: on the CPU 7 times faster than
            # flipping the batch and selecting.
            mirrored_N = ops.cast(flip_N, ms.int32) * (pixels_NHWC.shape[2] - 1) + 1
            pixels_NHWC = ops.reverse_sequence(pixels_NHWC, mirrored_N, 2, 0)
        if op_ids is not None:
            pixels_NHWC = self.rand_augment(pixels_NHWC, op_ids, op_arguments)
        x_NHWC = ops.cast(pixels_NHWC, ms.float32) * self.scale_C + self.shift_C
        if erase_boxes is not None:
            x_NHWC = self.erase(x_NHWC, erase_boxes, erase_fill)
        if mix_boxes is not None:
            x_NHWC = self.mix(x_NHWC, mix_boxes, mix_blend)
        return x_NHWC


def _needs_noise(section: AugmentSection) -> bool:
    return section.erase_prob > 0 and section.erase_mode == "pixel"
