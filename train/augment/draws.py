"""All that is drawn for a batch on its way through the compiled step, as one tuple of small arrays.

A field that the configuration never uses is None, so that the graph has no trace of it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from convnext_imagenet.model.resize import Interpolation
from convnext_imagenet.records.keyed_random import keyed_rng
from convnext_imagenet.train.augment.erase import erase_boxes, erase_colours, noise_start
from convnext_imagenet.train.augment.mix import mix_draws
from convnext_imagenet.train.augment.randaugment import as_arrays, draw_ops
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.policy import parse_policy

# Part of a run's plan: raised when any draw changes, since a run resumed with other draws would be another run.
DRAWS_VERSION = 1
_CROP_TRIES = 10


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

    Area uniform in `scale`, width / height log-uniform in `ratio`; ten tries, then the largest centred box whose
    ratio is within bounds (torchvision's RandomResizedCrop.get_params, which timm shares).
    """
    rng = keyed_rng(seed, epoch, sample_id, "crop")
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_CROP_TRIES):
        area_draw, ratio_draw, top_draw, left_draw = rng.random(4)
        area = height * width * (scale[0] + area_draw * (scale[1] - scale[0]))
        aspect = math.exp(log_low + ratio_draw * (log_high - log_low))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(top_draw * (height - crop_height + 1))
            left = int(left_draw * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    return _centre_box(height, width, ratio)


def _centre_box(height: int, width: int, ratio: Sequence[float]) -> tuple[int, int, int, int]:
    crop_height, crop_width = height, width
    if width / height < ratio[0]:
        crop_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        crop_width = max(1, round(height * ratio[1]))
    crop_height, crop_width = min(crop_height, height), min(crop_width, width)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def interpolation(seed: int, epoch: int, sample_id: int, choice: str) -> Interpolation:
    """Return by which filter a sample is resized: the configuration's, or, for "random", one of two (as in timm)."""
    if choice != "random":
        return cast(Interpolation, choice)
    return "bicubic" if keyed_rng(seed, epoch, sample_id, "interpolation").random() < 0.5 else "bilinear"


def flips(seed: int, epoch: int, sample_ids: np.ndarray, probability: float) -> np.ndarray:
    """Return one bool per sample: whether it is mirrored left to right."""
    draws = [keyed_rng(seed, epoch, int(sample_id), "flip").random() for sample_id in sample_ids]
    return np.asarray(draws) < probability


def drop_path_keep(seed: int, epoch: int, sample_ids: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Return the drop-path multipliers keep_NB, float32: 0 with probability rates[b], else 1 / (1 - rates[b])."""
    draws = [keyed_rng(seed, epoch, int(sample_id), "drop_path").random(len(rates)) for sample_id in sample_ids]
    rates_B = np.asarray(rates)
    keep_NB = (np.asarray(draws) >= rates_B) / (1.0 - rates_B)
    return keep_NB.astype(np.float32)


class DeviceDraws(NamedTuple):
    """The draws of N rows in the order of their pixels; the fields that make no difference are None.

    flip bool (N,); op_ids int32 and op_arguments float32 (N, count) of RandAugment; erase_boxes int32 (N, K, 4) and
    erase_fill as `DeviceErase` takes it; mix_boxes int32 (N, 4), mix_blend and mix_lam float32 (N,); keep float32
    (N, blocks), the multipliers of drop path.
    """

    flip: np.ndarray | None = None
    op_ids: np.ndarray | None = None
    op_arguments: np.ndarray | None = None
    erase_boxes: np.ndarray | None = None
    erase_fill: np.ndarray | None = None
    mix_boxes: np.ndarray | None = None
    mix_blend: np.ndarray | None = None
    mix_lam: np.ndarray | None = None
    keep: np.ndarray | None = None


def host_augments(config: Config) -> bool:
    """Whether RandAugment, and therefore the flip before it, is done on the host."""
    return bool(config.augment.auto_augment) and config.augment.device != "all"


def device_draws(
    config: Config, epoch: int, step: int, sample_ids: np.ndarray, drop_path_rates: tuple[float, ...]
) -> DeviceDraws:
    """Return the draws of the rows `sample_ids` of the epoch's global batch `step`, which counts from 0.

    The rows lie so that mirroring them gives each its partner: a whole global batch, or one part of
    `pipeline.local_positions`.
    """
    augment, seed = config.augment, config.train.seed
    drawn: dict[str, np.ndarray] = {}
    if augment.flip_prob and not host_augments(config):
        drawn["flip"] = flips(seed, epoch, sample_ids, augment.flip_prob)
    if augment.auto_augment and augment.device == "all":
        policy = parse_policy(augment.auto_augment)
        ops = [draw_ops(policy, seed, epoch, int(sample_id)) for sample_id in sample_ids]
        drawn["op_ids"], drawn["op_arguments"] = as_arrays(ops)
    if augment.erase_prob:
        drawn |= _erase(config, epoch, sample_ids)
    if config.mix.is_on:
        mix = mix_draws(config.mix, seed, epoch, step, sample_ids, config.data.size_px)
        drawn |= {"mix_boxes": mix.boxes, "mix_blend": mix.blend, "mix_lam": mix.lam}
    if any(drop_path_rates):
        drawn["keep"] = drop_path_keep(seed, epoch, sample_ids, drop_path_rates)
    return DeviceDraws(**drawn)


def _erase(config: Config, epoch: int, sample_ids: np.ndarray) -> dict[str, np.ndarray]:
    augment, seed, size_px = config.augment, config.train.seed, config.data.size_px
    ids = [int(sample_id) for sample_id in sample_ids]
    drawn = {"erase_boxes": np.stack([erase_boxes(augment, seed, epoch, one, size_px) for one in ids])}
    if augment.erase_mode == "rand":
        drawn["erase_fill"] = np.stack([erase_colours(augment, seed, epoch, one) for one in ids])
    elif augment.erase_mode == "pixel":
        drawn["erase_fill"] = np.array([noise_start(seed, epoch, one) for one in ids], np.int32)
    return drawn
