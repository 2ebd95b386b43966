"""Draws RandAugment: which operations a sample gets, and with which final arguments.

It follows timm 1.0's `rand-mM-mstdS-nN-incI` (arXiv 1909.13719): N operations, drawn uniformly from 15 with
replacement, each applied with probability 0.5, at a magnitude ~ N(M, S) clipped to [0, 10].
"""

import enum
from collections.abc import Callable

import numpy as np

from convnext_imagenet.records.keyed_random import keyed_rng
from convnext_imagenet.train.config.policy import TOP_MAGNITUDE, Policy

_APPLY_PROB = 0.5  # timm's default; the paper always applies


class Op(enum.IntEnum):
    """The operations; each comment explains the argument."""

    NONE = 0
    AUTO_CONTRAST = 1
    EQUALIZE = 2
    INVERT = 3
    ROTATE = 4  # degrees counter-clockwise
    POSTERIZE = 5  # bits to keep, 0..4
    SOLARIZE = 6  # levels of at least this are inverted, 0..256
    SOLARIZE_ADD = 7  # added to levels below 128, 0..110
    COLOR = 8  # enhance factors, 0.1..1.9; 1 changes nothing
    CONTRAST = 9
    BRIGHTNESS = 10
    SHARPNESS = 11
    SHEAR_X = 12  # pixels to the side for each pixel down, -0.3..0.3
    SHEAR_Y = 13
    TRANSLATE_X = 14  # of the width, -0.45..0.45; a positive one moves the picture to the left
    TRANSLATE_Y = 15  # of the height; a positive one moves the picture up


Drawn = tuple[tuple[Op, float], ...]


def draw_ops(policy: Policy, seed: int, epoch: int, sample_id: int) -> Drawn:
    """Return a sample's operations with their final, signed arguments; NONE for one that is not applied."""
    rng = keyed_rng(seed, epoch, sample_id, "randaugment")
    drawn = []
    for _ in range(policy.count):
        op, coin, sign = Op(int(rng.integers(1, len(Op)))), rng.random(), 1.0 if rng.random() < 0.5 else -1.0
        magnitude = policy.magnitude + policy.magnitude_std * rng.standard_normal()
        if coin >= _APPLY_PROB:
            drawn.append((Op.NONE, 0.0))
            continue
        share = min(max(magnitude, 0.0), TOP_MAGNITUDE) / TOP_MAGNITUDE
        drawn.append((op, _ARGUMENTS[op](share, sign, policy.is_increasing)))
    return tuple(drawn)


def as_arrays(drawn: list[Drawn]) -> tuple[np.ndarray, np.ndarray]:
    """Return the operations of N samples as int32 ids and float32 arguments, both (N, count)."""
    ids = np.array([[op for op, _ in sample] for sample in drawn], np.int32)
    return ids, np.array([[argument for _, argument in sample] for sample in drawn], np.float32)


def _enhance(share: float, sign: float, is_increasing: bool) -> float:
    return max(0.1, 1.0 + sign * share * 0.9) if is_increasing else 0.1 + share * 1.8


def _posterize(share: float, sign: float, is_increasing: bool) -> float:
    bits = int(share * 4)
    return 4 - bits if is_increasing else bits


def _solarize(share: float, sign: float, is_increasing: bool) -> float:
    threshold = min(256, int(share * 256))
    return 256 - threshold if is_increasing else threshold


def _signed(most: float) -> Callable[[float, float, bool], float]:
    return lambda share, sign, is_increasing: sign * share * most


def _nothing(share: float, sign: float, is_increasing: bool) -> float:
    return 0.0


_ARGUMENTS: dict[Op, Callable[[float, float, bool], float]] = {
    Op.AUTO_CONTRAST: _nothing,
    Op.EQUALIZE: _nothing,
    Op.INVERT: _nothing,
    Op.ROTATE: _signed(30.0),
    Op.POSTERIZE: _posterize,
    Op.SOLARIZE: _solarize,
    Op.SOLARIZE_ADD: lambda share, sign, is_increasing: min(128, int(share * 110)),
    Op.COLOR: _enhance,
    Op.CONTRAST: _enhance,
    Op.BRIGHTNESS: _enhance,
    Op.SHARPNESS: _enhance,
    Op.SHEAR_X: _signed(0.3),
    Op.SHEAR_Y: _signed(0.3),
    Op.TRANSLATE_X: _signed(0.45),
    Op.TRANSLATE_Y: _signed(0.45),
}
