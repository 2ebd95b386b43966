"""What the host does to a training image: decode, random crop, resize, and RandAugment unless the device does it."""

from functools import lru_cache

import numpy as np

from convnext_imagenet.model.jpeg import decode_jpeg_box
from convnext_imagenet.model.resize import Box, resize
from convnext_imagenet.records.images import ImageInfo, decode_rgb, inspect_image
from convnext_imagenet.train.config import Config
from convnext_imagenet.train.device_draws import host_augments
from convnext_imagenet.train.draws import crop_box, flips, interpolation
from convnext_imagenet.train.randaugment import draw_ops, parse_policy
from convnext_imagenet.train.randaugment_host import apply_ops

_policy = lru_cache(parse_policy)


def training_pixels(
    image: bytes, config: Config, epoch: int, sample_id: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Return one sample's pixels before the device's part, uint8 (S, S, 3), in `out` if given; raises BadImage.

    The crop is cut out before the antialiased resize, so no pixel outside of the box takes part, as in torchvision.
    """
    augment, seed, size_px = config.augment, config.train.seed, config.data.size_px
    info = inspect_image(image)
    box = crop_box(seed, epoch, sample_id, info.height, info.width, augment.crop_scale, augment.crop_ratio)
    kind = interpolation(seed, epoch, sample_id, augment.interpolation)
    crop_HWC, box = _decoded(image, info, box)
    resized = resize(crop_HWC, box, (size_px, size_px), kind)
    if host_augments(config):
        if flips(seed, epoch, np.array([sample_id]), augment.flip_prob)[0]:
            resized = np.ascontiguousarray(resized[:, ::-1])
        resized = apply_ops(resized, draw_ops(_policy(augment.auto_augment), seed, epoch, sample_id))
    if out is None:
        return resized
    out[...] = resized
    return out


def _decoded(image: bytes, info: ImageInfo, box: Box) -> tuple[np.ndarray, Box]:
    """Pixels that hold the box, and where in them it is: the box alone if that can be decoded, or the whole image."""
    if info.format == "jpeg":
        crop_HWC = decode_jpeg_box(image, info.height, info.width, box)
        if crop_HWC is not None:
            return crop_HWC, (0, 0, *box[2:])
    return decode_rgb(image), box
