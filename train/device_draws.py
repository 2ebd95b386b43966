"""All that is drawn for a batch on its way through the compiled step, as one tuple of small arrays.

A field that the configuration never uses is None, so that the graph has no trace of it.
"""

from typing import NamedTuple

import numpy as np

from convnext_imagenet.train.config import Config
from convnext_imagenet.train.draws import drop_path_keep, flips
from convnext_imagenet.train.erase_draws import erase_boxes, erase_colours, noise_start
from convnext_imagenet.train.mix_draws import mix_draws
from convnext_imagenet.train.randaugment import as_arrays, draw_ops, parse_policy


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
