"""The host's work on training images: decode, random crop, resize, and RandAugment unless the device does it."""

from collections.abc import Sequence

import numpy as np

from convnext_imagenet.model.crops import Crop, crop_jpegs
from convnext_imagenet.model.resize import resize
from convnext_imagenet.records.image_headers import BadImage, inspect_image
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.train.augment.crop import crop_box, interpolation
from convnext_imagenet.train.augment.flip import flips
from convnext_imagenet.train.augment.randaugment import draw_ops
from convnext_imagenet.train.augment.randaugment_host import augment_images
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.policy import parse_policy


def training_pixels(
    images: Sequence[bytes], config: Config, epoch: int, sample_ids: np.ndarray, out_NHWC: np.ndarray
) -> None:
    """Write the samples' pixels, as the device takes them, to `out_NHWC`, contiguous uint8 (N, S, S, 3).

    The crop is cut out before the antialiased resize, so pixels outside the box have no influence, as in torchvision.
    Raises BadImage with the sample's id for an image that does not decode.
    """
    augment, seed = config.augment, config.train.seed
    ids = [int(sample_id) for sample_id in sample_ids]
    is_mirrored = flips(seed, epoch, sample_ids, augment.flip_prob) if augment.is_on_host else [False] * len(ids)
    crops = [
        _crop(image, config, epoch, sample_id, bool(mirrored))
        for image, sample_id, mirrored in zip(images, ids, is_mirrored, strict=True)
    ]
    for n, is_done in enumerate(crop_jpegs(crops, out_NHWC)):
        if not is_done:
            _crop_decoded(crops[n], ids[n], out_NHWC[n])
    if augment.is_on_host:
        policy = parse_policy(augment.auto_augment)
        augment_images(out_NHWC, [draw_ops(policy, seed, epoch, sample_id) for sample_id in ids])


def _crop(image: bytes, config: Config, epoch: int, sample_id: int, is_mirrored: bool) -> Crop:
    augment, seed = config.augment, config.train.seed
    try:
        info = inspect_image(image)
    except BadImage as error:
        raise _of_sample(error, sample_id) from None
    box = crop_box(seed, epoch, sample_id, info.height, info.width, augment.crop_scale, augment.crop_ratio)
    kind = interpolation(seed, epoch, sample_id, augment.interpolation)
    return Crop(image, info.height, info.width, box, kind, is_mirrored)


def _crop_decoded(crop: Crop, sample_id: int, out_HWC: np.ndarray) -> None:
    try:
        pixels_HWC = decode_rgb(crop.data)
    except BadImage as error:
        raise _of_sample(error, sample_id) from None
    resized_HWC = resize(pixels_HWC, crop.box, (out_HWC.shape[0], out_HWC.shape[1]), crop.interpolation)
    out_HWC[...] = resized_HWC[:, ::-1] if crop.is_mirrored else resized_HWC


def _of_sample(error: BadImage, sample_id: int) -> BadImage:
    return BadImage(error.reason, f"sample_id {sample_id}: {error.detail}")
