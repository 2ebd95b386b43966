"""Draws the random crop: its box and its resize filter. `host.py` cuts the box out while it decodes."""

import math
from collections.abc import Sequence
from typing import cast

from convnext_imagenet.model.resize import Interpolation
from convnext_imagenet.records.keyed_random import keyed_rng

_TRIES = 10  # torchvision's and timm's


def crop_box(
    seed: int,
    epoch: int,
    sample_id: int,
    height: int,
    width: int,
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[int, int, int, int]:
    """Return RandomResizedCrop's box (top, left, height, width) inside an image of `height` x `width`.

    The share of the area is uniform in `scale`, width / height is log-uniform in `ratio`. After ten tries without a box
    that fits, it is the largest centred box whose ratio is within bounds (torchvision's RandomResizedCrop.get_params,
    which timm shares).
    """
    rng = keyed_rng(seed, epoch, sample_id, "crop")
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_TRIES):
        area_draw, ratio_draw, top_draw, left_draw = rng.random(4)
        area = height * width * (scale[0] + area_draw * (scale[1] - scale[0]))
        aspect = math.exp(log_low + ratio_draw * (log_high - log_low))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(top_draw * (height - crop_height + 1))
            left = int(left_draw * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    return _centre_box(height, width, ratio)


def interpolation(seed: int, epoch: int, sample_id: int, choice: str) -> Interpolation:
    """Return the resize filter of a sample: `choice`, or for "random" bicubic or bilinear, as in timm."""
    if choice != "random":
        return cast(Interpolation, choice)
    return "bicubic" if keyed_rng(seed, epoch, sample_id, "interpolation").random() < 0.5 else "bilinear"


def _centre_box(height: int, width: int, ratio: Sequence[float]) -> tuple[int, int, int, int]:
    crop_height, crop_width = height, width
    if width / height < ratio[0]:
        crop_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        crop_width = max(1, round(height * ratio[1]))
    crop_height, crop_width = min(crop_height, height), min(crop_width, width)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
