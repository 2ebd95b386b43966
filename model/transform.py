"""The evaluation transform: a decoded image -> the pixels that a network is evaluated on.

Resizes with the bits of Pillow's antialiased filters, with which published accuracies were measured; OpenCV's differ in
most pixels (DECISIONS, 2026-11-23). This file knows nothing of MindSpore.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.resize import resize

# Raise if decoding, resize or crop gives an image other pixels. Part of the plans of RUN and PREDICTIONS (DECISIONS,
# 2026-11-28).
TRANSFORM_VERSION = 1

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# A strip of 1 x 60,000 px would become 256 x 15 million. Above this size only the crop is resampled, which may change
# the last bit of a pixel.
LARGEST_RESIZED_PX = 50_000_000

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class EvalTransform:
    """How an image becomes `size_px` x `size_px` pixels, and the mean and std (of pixels in [0, 1]) to normalise by.

    "crop" resizes the short side to size_px / crop_pct and cuts the centre out. "squash" resizes the whole image, as
    the paper does at 384 px, and ignores `crop_pct`. Raises ModelError for values out of range.
    """

    size_px: int = 224
    crop_pct: float = 0.875
    mode: Literal["crop", "squash"] = "crop"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        rules = (
            ("size_px", isinstance(self.size_px, int) and self.size_px >= 1, "a whole number of at least 1"),
            ("crop_pct", 0 < self.crop_pct <= 1, "in (0, 1]"),
            ("mode", self.mode in ("crop", "squash"), '"crop" or "squash"'),
            ("interpolation", self.interpolation in _FILTERS, " or ".join(f'"{name}"' for name in _FILTERS)),
            ("mean", _are_three_numbers(self.mean), "three finite numbers"),
            ("std", _are_three_numbers(self.std) and min(self.std) > 0, "three finite numbers above 0"),
        )
        for field, holds, rule in rules:
            if not holds:
                raise ModelError(f"evaluation transform: {field} is {getattr(self, field)!r}; it must be {rule}")

    @property
    def resize_px(self) -> int:
        """Return the short side before the crop in pixels: 256 for 224 and 0.875."""
        return math.floor(self.size_px / self.crop_pct)


def scale_and_shift(transform: EvalTransform) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, shift), float32 (3,): pixels 0..255 times scale plus shift are (pixels / 255 - mean) / std."""
    mean_C, std_C = 255.0 * np.asarray(transform.mean), 255.0 * np.asarray(transform.std)
    return (1.0 / std_C).astype(np.float32), (-mean_C / std_C).astype(np.float32)


def changed(transform: EvalTransform, changes: Mapping[str, Any]) -> EvalTransform:
    """Return the transform with new values; None keeps a field. Raises ModelError for bad or ignored values."""
    kept = {name: value for name, value in changes.items() if value is not None}
    if kept.get("crop_pct", 1) != 1 and kept.get("mode", transform.mode) == "squash":
        raise ModelError(
            "--crop-pct: squash resizes the whole image and crops nothing; leave this option out, or pass --resize "
            "crop, too"
        )
    return replace(transform, **kept)


def evaluation_pixels(image_HWC: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """Return an RGB uint8 image (H, W, 3) as uint8 (S, S, 3): Pillow's resize, then torchvision's centre crop.

    Raises ModelError for anything but a uint8 array (H, W, 3) that holds pixels.
    """
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or image_HWC.size == 0:
        raise ModelError(
            f"an image of type {image_HWC.dtype} and shape {image_HWC.shape} cannot be evaluated; "
            f"give RGB as uint8 of shape (H, W, 3)"
        )
    side, (image_height, image_width) = transform.size_px, image_HWC.shape[:2]
    whole = (0, 0, image_height, image_width)
    if transform.mode == "squash":
        return resize(image_HWC, whole, (side, side), transform.interpolation)
    width, height = _resized_size(image_width, image_height, transform.resize_px)
    left, top = round((width - side) / 2), round((height - side) / 2)
    if width * height <= LARGEST_RESIZED_PX:
        return resize(image_HWC, whole, (height, width), transform.interpolation, window=(top, left, side, side))
    x_scale, y_scale = image_width / width, image_height / height
    box = (left * x_scale, top * y_scale, (left + side) * x_scale, (top + side) * y_scale)
    return np.array(Image.fromarray(image_HWC).resize((side, side), _FILTERS[transform.interpolation], box=box))


def _are_three_numbers(values: Sequence[Any]) -> bool:
    return len(values) == 3 and all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _resized_size(width: int, height: int, short_px: int) -> tuple[int, int]:
    """Return (width, height) with the short side `short_px`; the long side is rounded down, as in torchvision."""
    if width <= height:
        return short_px, int(short_px * height / width)
    return int(short_px * width / height), short_px
