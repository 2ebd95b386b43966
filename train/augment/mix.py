"""Mixup and cutmix: their draws on the host, and the cells that apply them in the compiled graph."""

import math
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from convnext_imagenet.records.keyed_random import keyed_rng
from convnext_imagenet.train.augment.erase import box_mask, int32_range
from convnext_imagenet.train.config.sections import MixSection


class Mix(NamedTuple):
    """How the rows of a batch mix: the partner's pixels replace those inside `boxes`; elsewhere `blend` is its weight.

    boxes int32 (N, 4): top, left, bottom, right. blend float32 (N,): the partner's weight outside the box. lam float32
    (N,): the weight of the row's own target.
    """

    boxes: np.ndarray
    blend: np.ndarray
    lam: np.ndarray


class _Draw(NamedTuple):
    box: tuple[int, int, int, int]
    blend: float
    lam: float


_NONE = _Draw((0, 0, 0, 0), 0.0, 1.0)


def mix_draws(section: MixSection, seed: int, epoch: int, step: int, sample_ids: np.ndarray, size_px: int) -> Mix:
    """Return the draws of the N rows `sample_ids`; row i and row N - 1 - i are partners.

    `step` counts the global batches of an epoch from 0. Mode "batch" draws once per step, "pair" once per pair (keyed
    by the row in the first half), "elem" once per row (arXiv 1710.09412 and 1905.04899, as in timm's Mixup).
    """
    ids = [int(sample_id) for sample_id in sample_ids]
    if section.mode == "batch":
        draws = [_draw(section, keyed_rng(seed, epoch, step, "mix batch"), size_px)] * len(ids)
    elif section.mode == "pair":
        half = [_draw(section, keyed_rng(seed, epoch, leader, "mix pair"), size_px) for leader in ids[: len(ids) // 2]]
        draws = half + half[::-1]
    else:
        draws = [_draw(section, keyed_rng(seed, epoch, own, "mix elem"), size_px) for own in ids]
    return Mix(
        np.array([draw.box for draw in draws], np.int32),
        np.array([draw.blend for draw in draws], np.float32),
        np.array([draw.lam for draw in draws], np.float32),
    )


def _draw(section: MixSection, rng: np.random.Generator, size_px: int) -> _Draw:
    mix_draw, switch_draw = rng.random(2)
    if mix_draw >= section.prob:
        return _NONE
    if section.has_cutmix and (section.mixup_alpha == 0 or switch_draw < section.switch_prob):
        return _cutmix(section, rng, size_px)
    lam = rng.beta(section.mixup_alpha, section.mixup_alpha)
    return _Draw(_NONE.box, 1.0 - lam, lam)


def _cutmix(section: MixSection, rng: np.random.Generator, size_px: int) -> _Draw:
    """Draw a box with area 1 - lam around a uniform centre and clip it; lam is then the share outside the box."""
    if section.cutmix_minmax:
        low, high = (int(size_px * share) for share in section.cutmix_minmax)
        height, width = (int(side) for side in rng.integers(low, max(high, low + 1), 2))
        top, left = int(rng.integers(size_px - height + 1)), int(rng.integers(size_px - width + 1))
        box = top, left, top + height, left + width
    else:
        half = int(size_px * math.sqrt(1.0 - rng.beta(section.cutmix_alpha, section.cutmix_alpha))) // 2
        centre = rng.integers(size_px, size=2)
        top, left = (max(0, int(pixel) - half) for pixel in centre)
        bottom, right = (min(size_px, int(pixel) + half) for pixel in centre)
        box = top, left, bottom, right
    area = (box[2] - box[0]) * (box[3] - box[1])
    return _Draw(box, 0.0, 1.0 - area / size_px**2)


class DeviceMix(nn.Cell):
    """Replace float32 pixels (N, S, S, 3) inside a row's box with its partner's, and blend the partner in elsewhere.

    boxes int32 (N, 4), blend float32 (N,): the partner's weight outside the box (`Mix`).
    """

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)

    def construct(self, x_NHWC: Tensor, boxes_N4: Tensor, blend_N: Tensor) -> Tensor:
        rows = x_NHWC.shape[0]
        inside_NHWC = box_mask(boxes_N4, x_NHWC.shape[1])
        weight_NHWC = inside_NHWC + (1.0 - inside_NHWC) * ops.reshape(blend_N, (-1, 1, 1, 1))
        # Gathers the partners, because on the CPU a reversal takes 15 times as long (DECISIONS, 2026-11-24).
        partners_NHWC = ops.gather(x_NHWC, rows - 1 - int32_range(rows), 0)
        return x_NHWC * (1.0 - weight_NHWC) + partners_NHWC * weight_NHWC


class SoftTargets(nn.Cell):
    """Labels (N,) int32 -> targets (N, K): lam times the row's smoothed label plus 1 - lam times its partner's.

    A label smoothed by s is s / K everywhere, plus 1 - s at its class. Without `lam` nothing is mixed. `class_weights`,
    float32 (K,), multiply the targets, as in PyTorch's cross entropy with targets of probabilities.
    """

    def __init__(self, num_classes: int, smoothing: float, class_weights: np.ndarray | None = None) -> None:
        super().__init__(auto_prefix=False)
        self.num_classes = num_classes
        self.off_value = smoothing / num_classes
        self.on_value = 1.0 - smoothing + self.off_value
        self.reverse = ops.ReverseV2(axis=[0])
        self.class_weights = None if class_weights is None else Tensor(class_weights.astype(np.float32))

    def construct(self, labels_N: Tensor, lam_N: Tensor | None) -> Tensor:
        own_NK = ops.one_hot(
            labels_N,
            self.num_classes,
            Tensor(self.on_value, ms.float32),
            Tensor(self.off_value, ms.float32),
        )
        if self.class_weights is not None:
            own_NK = own_NK * self.class_weights  # before mixing: the same sum, and one product fewer
        if lam_N is None:
            return own_NK
        lam_N1 = ops.expand_dims(lam_N, 1)
        return own_NK * lam_N1 + self.reverse(own_NK) * (1.0 - lam_N1)
