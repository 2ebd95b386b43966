"""The host's part of a training image against Pillow: cut out, resize, mirror, RandAugment."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.train.augment.crop import crop_box
from convnext_imagenet.train.augment.flip import flips
from convnext_imagenet.train.augment.host import training_pixels
from convnext_imagenet.train.augment.randaugment import draw_ops
from convnext_imagenet.train.augment.randaugment_host import apply_ops
from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.policy import parse_policy

SIZE_PX, EPOCH, IDS = 32, 3, np.arange(10, 18)
POLICY = "rand-m9-mstd0.5-n1-inc1"


def _config(policy: str, device: str = "rest") -> Config:
    return config_from_mapping(
        {
            "data": {"size_px": SIZE_PX},
            "augment": {"auto_augment": policy, "device": device, "interpolation": "bicubic"},
            "train": {"seed": 4},
        }
    )


def _encoded(kind: str, sample_id: int) -> bytes:
    pixels = np.random.default_rng(sample_id).integers(0, 256, (50, 70, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _by_pillow(data: bytes, config: Config, sample_id: int, is_mirrored: bool) -> np.ndarray:
    augment = config.augment
    top, left, height, width = crop_box(4, EPOCH, sample_id, 50, 70, augment.crop_scale, augment.crop_ratio)
    cut = Image.fromarray(decode_rgb(data)).crop((left, top, left + width, top + height))
    pixels = np.asarray(cut.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))
    return pixels[:, ::-1] if is_mirrored else pixels


def _written(images: list[bytes], config: Config) -> np.ndarray:
    out = np.zeros((len(images), SIZE_PX, SIZE_PX, 3), np.uint8)
    training_pixels(images, config, EPOCH, IDS[: len(images)], out)
    return out


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("policy", "device"), [("", "rest"), (POLICY, "all")])
def test_without_randaugment_on_the_host_a_sample_is_its_box_resized(kind: str, policy: str, device: str) -> None:
    config = _config(policy, device)
    images = [_encoded(kind, int(sample_id)) for sample_id in IDS]
    for pixels, data, sample_id in zip(_written(images, config), images, IDS, strict=True):
        np.testing.assert_array_equal(pixels, _by_pillow(data, config, int(sample_id), is_mirrored=False))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_with_randaugment_on_the_host_it_is_mirrored_before_the_operations(kind: str) -> None:
    config = _config(POLICY)
    images = [_encoded(kind, int(sample_id)) for sample_id in IDS]
    is_mirrored = flips(4, EPOCH, IDS, 0.5)
    assert 0 < is_mirrored.sum() < len(IDS)
    for pixels, data, sample_id, mirrored in zip(_written(images, config), images, IDS, is_mirrored, strict=True):
        drawn = draw_ops(parse_policy(POLICY), 4, EPOCH, int(sample_id))
        expected = apply_ops(_by_pillow(data, config, int(sample_id), bool(mirrored)), drawn)
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("damage", [lambda data: b"no image", lambda data: data[:200]], ids=["other", "cut"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_that_does_not_decode_is_named_by_its_sample(kind: str, damage: Callable[[bytes], bytes]) -> None:
    images = [_encoded(kind, 10), damage(_encoded(kind, 11))]
    with pytest.raises(BadImage, match="sample_id 11: "):
        _written(images, _config(""))
