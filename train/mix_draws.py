"""Mixup's and cutmix's draws for the rows of a global batch, as pure functions of their keys.

Row i of a batch of N mixes with row N - 1 - i (arXiv 1710.09412, 1905.04899, as in timm's Mixup).
"""

import math
from typing import NamedTuple

import numpy as np

from convnext_imagenet.records.order import keyed_rng
from convnext_imagenet.train.sections import MixSection


class Mix(NamedTuple):
    """How the rows of a batch mix: the partner's pixels inside `boxes` as they are, elsewhere by `blend`.

    boxes int32 (N, 4) of top, left, bottom, right; blend float32 (N,), the partner's weight outside of the box; lam
    float32 (N,), the weight of the row's own target.
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
    """Return the draws of the rows `sample_ids`, which lie so that each is mirrored to its partner.

    `step` counts the global batches of an epoch from 0. Mode "batch" draws once for the step, "pair" once for a pair
    (keyed by the row in the first half), "elem" for each row by itself.
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
    """A box of the share 1 - lam around a uniform centre, cut at the border; lam is then what the box leaves."""
    if section.cutmix_minmax:
        low, high = (int(size_px * share) for share in section.cutmix_minmax)
        height, width = (int(side) for side in rng.integers(low, max(high, low + 1), 2))
        top, left = int(rng.integers(size_px - height + 1)), int(rng.integers(size_px - width + 1))
        box = top, left, top + height, left + width
    else:
        half = int(size_px * math.sqrt(1.0 - rng.beta(section.cutmix_alpha, section.cutmix_alpha))) // 2
        centre = rng.integers(size_px, size=2)
        top, left = (max(0, int(place) - half) for place in centre)
        bottom, right = (min(size_px, int(place) + half) for place in centre)
        box = top, left, bottom, right
    area = (box[2] - box[0]) * (box[3] - box[1])
    return _Draw(box, 0.0, 1.0 - area / size_px**2)
