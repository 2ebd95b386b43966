"""Collects the random draws of a batch for the compiled step, and the cell that applies them to the pixels.

Each augmentation has its own file, with its draws beside its cell. A new augmentation adds its fields to `DeviceDraws`,
its draws to `device_draws` and its cell to `DeviceAugment`; nothing else changes. All draws are made on the host, so no
cell is random.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from convnext_imagenet.model.transform import EvalTransform, scale_and_shift
from convnext_imagenet.records.keyed_random import keyed_rng
from convnext_imagenet.train.augment.erase import DeviceErase, erase_draws
from convnext_imagenet.train.augment.flip import AscendFlip, DeviceFlip, flips
from convnext_imagenet.train.augment.mix import DeviceMix, mix_draws
from convnext_imagenet.train.augment.randaugment import as_arrays, draw_ops
from convnext_imagenet.train.augment.randaugment_device import DeviceRandAugment
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.policy import parse_policy
from convnext_imagenet.train.config.sections import AugmentSection

# Part of a run's plan. Raise it when any draw of training changes: a run that resumes with other draws is another run.
DRAWS_VERSION = 1


class DeviceDraws(NamedTuple):
    """The draws of N rows, in the order of their pixels; a field that the configuration never uses is None.

    flip: bool (N,). op_ids int32 and op_arguments float32 (N, count): RandAugment. erase_boxes int32 (N, K, 4), and
    erase_fill as `DeviceErase` takes it. mix_boxes int32 (N, 4), mix_blend and mix_lam float32 (N,). keep: float32
    (N, blocks), the drop-path multipliers, which the network applies.
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


def device_draws(
    config: Config, epoch: int, step: int, sample_ids: np.ndarray, drop_path_rates: tuple[float, ...]
) -> DeviceDraws:
    """Return the draws of the rows `sample_ids` of the epoch's global batch `step`, which counts from 0.

    The rows are a whole global batch or one part of `schedule.local_positions`: row i and row N - 1 - i are partners.
    """
    augment, seed, size_px = config.augment, config.train.seed, config.data.size_px
    drawn: dict[str, np.ndarray | None] = {}
    if augment.flip_prob and not augment.is_on_host:
        drawn["flip"] = flips(seed, epoch, sample_ids, augment.flip_prob)
    if augment.auto_augment and not augment.is_on_host:
        policy = parse_policy(augment.auto_augment)
        op_ids, op_arguments = as_arrays([draw_ops(policy, seed, epoch, int(sample_id)) for sample_id in sample_ids])
        drawn |= {"op_ids": op_ids, "op_arguments": op_arguments}
    if augment.erase_prob:
        erase = erase_draws(augment, seed, epoch, sample_ids, size_px)
        drawn |= {"erase_boxes": erase.boxes, "erase_fill": erase.fill}
    if config.mix.is_on:
        mix = mix_draws(config.mix, seed, epoch, step, sample_ids, size_px)
        drawn |= {"mix_boxes": mix.boxes, "mix_blend": mix.blend, "mix_lam": mix.lam}
    if any(drop_path_rates):
        drawn["keep"] = drop_path_keep(seed, epoch, sample_ids, drop_path_rates)
    return DeviceDraws(**drawn)


def drop_path_keep(seed: int, epoch: int, sample_ids: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Return the drop-path multipliers keep_NB, float32: 0 with probability rates[b], else 1 / (1 - rates[b]).

    Drawn on the host, so that no generator state is saved and any number of devices draws the same (DECISIONS,
    2026-11-23).
    """
    draws = [keyed_rng(seed, epoch, int(sample_id), "drop_path").random(len(rates)) for sample_id in sample_ids]
    rates_B = np.asarray(rates)
    keep_NB = (np.asarray(draws) >= rates_B) / (1.0 - rates_B)
    return keep_NB.astype(np.float32)


def drawn_names(draws: DeviceDraws) -> tuple[str, ...]:
    """Return the names of the draws that the configuration uses, in the order of `drawn_tensors`."""
    return tuple(name for name, drawn in draws._asdict().items() if drawn is not None)


def drawn_tensors(draws: DeviceDraws) -> tuple[Tensor, ...]:
    """Return the draws that the configuration uses as tensors: how a compiled step takes them (`Gradients`)."""
    return tuple(Tensor(drawn) for drawn in draws if drawn is not None)


def graph_draws(draws: DeviceDraws) -> dict[str, Tensor]:
    """Return the draws that are not None by name, for `DeviceAugment` called by itself; a step takes `drawn_tensors`.

    The dictionary is mutable, because a graph treats the values of any other as constants and would be compiled again
    for each batch.
    """
    tensors = {name: Tensor(drawn) for name, drawn in draws._asdict().items() if drawn is not None}
    return ms.mutable(tensors or {"nothing": Tensor(np.zeros(1, np.float32))})  # MindSpore 2.10 crashes on an empty one


class DeviceAugment(nn.Cell):
    """uint8 pixels (N, S, S, 3) and `graph_draws` -> float32 pixels (N, S, S, 3) as the network sees them.

    The order is timm's: flip, RandAugment, normalise, erase, mix. A draw that is absent removes its operation from the
    graph. `mean` and `std` of `transform` are per RGB channel, for pixels in [0, 1].
    """

    def __init__(self, section: AugmentSection, transform: EvalTransform, seed: int) -> None:
        super().__init__(auto_prefix=False)
        self.scale_C, self.shift_C = (Tensor(values_C) for values_C in scale_and_shift(transform))
        self.flip = AscendFlip() if ms.get_context("device_target") == "Ascend" else DeviceFlip()
        self.rand_augment = DeviceRandAugment()
        self.erase = DeviceErase(section, seed)
        self.mix = DeviceMix()

    def construct(self, pixels_NHWC: Tensor, draws: dict[str, Tensor]) -> Tensor:
        if "flip" in draws:
            pixels_NHWC = self.flip(pixels_NHWC, flip_N=draws["flip"])
        if "op_ids" in draws:
            pixels_NHWC = self.rand_augment(pixels_NHWC, draws["op_ids"], draws["op_arguments"])
        x_NHWC = ops.cast(pixels_NHWC, ms.float32) * self.scale_C + self.shift_C
        if "erase_boxes" in draws:
            x_NHWC = self.erase(x_NHWC, boxes_NK4=draws["erase_boxes"], fill=draws.get("erase_fill"))
        if "mix_boxes" in draws:
            x_NHWC = self.mix(x_NHWC, boxes_N4=draws["mix_boxes"], blend_N=draws["mix_blend"])
        return x_NHWC
