"""Random erasing: its draws on the host, and the cell that applies them in the compiled graph."""

import math
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops

from convnext_imagenet.records.keyed_random import keyed_rng
from convnext_imagenet.train.config.sections import AugmentSection

_TRIES = 10  # timm's
NOISE_VALUES = 1 << 21  # size of the noise bank on the device: as many values as 14 images of 224 px (2026-11-24)
_RUN = 16  # values that follow each other in the bank and are gathered together, 64 bytes


class EraseDraws(NamedTuple):
    """The boxes of N samples, int32 (N, K, 4), and their filling as `DeviceErase` takes it (None in mode "const")."""

    boxes: np.ndarray
    fill: np.ndarray | None


def erase_draws(section: AugmentSection, seed: int, epoch: int, sample_ids: np.ndarray, size_px: int) -> EraseDraws:
    """Return the draws of the samples `sample_ids` for images of `size_px` x `size_px`."""
    ids = [int(sample_id) for sample_id in sample_ids]
    boxes_NK4 = np.stack([erase_boxes(section, seed, epoch, sample_id, size_px) for sample_id in ids])
    if section.erase_mode == "rand":
        return EraseDraws(boxes_NK4, np.stack([erase_colours(section, seed, epoch, sample_id) for sample_id in ids]))
    if section.erase_mode == "pixel":
        return EraseDraws(boxes_NK4, np.array([noise_start(seed, epoch, sample_id) for sample_id in ids], np.int32))
    return EraseDraws(boxes_NK4, None)


def erase_boxes(section: AugmentSection, seed: int, epoch: int, sample_id: int, size_px: int) -> np.ndarray:
    """Return a sample's boxes, int32 (count, 4) of top, left, bottom, right in pixels; an empty box is all 0.

    With probability `erase_prob` the sample gets `erase_count` boxes. The share of the area that they cover together is
    uniform in `erase_scale`, height / width is log-uniform in `erase_ratio`, and the position is uniform. A box is
    strictly smaller than the image, and is empty if ten tries find none (arXiv 1708.04896, as in timm's RandomErasing).
    """
    rng = keyed_rng(seed, epoch, sample_id, "erase")
    boxes = np.zeros((section.erase_count, 4), np.int32)
    if rng.random() >= section.erase_prob:
        return boxes
    for box in boxes:
        box[:] = _box(section, rng, size_px)
    return boxes


def erase_colours(section: AugmentSection, seed: int, epoch: int, sample_id: int) -> np.ndarray:
    """Return one N(0, 1) colour for each box, float32 (count, 3); mode "rand" fills boxes with it."""
    rng = keyed_rng(seed, epoch, sample_id, "erase colour")
    return rng.standard_normal((section.erase_count, 3), np.float32)


def noise_start(seed: int, epoch: int, sample_id: int) -> int:
    """Return the position in the noise bank where the sample's noise begins; mode "pixel" fills boxes with it."""
    return int(keyed_rng(seed, epoch, sample_id, "erase noise").integers(NOISE_VALUES))


def noise_bank(seed: int) -> np.ndarray:
    """Return the run's N(0, 1) values, float32 (NOISE_VALUES,); a sample reads them from its start and wraps around.

    Noise of its own for each sample would have four times the bytes of its pixels (DECISIONS, 2026-11-24).
    """
    return keyed_rng(seed, "erase noise bank").standard_normal(NOISE_VALUES, np.float32)


def noise_runs(bank: np.ndarray) -> np.ndarray:
    """Return every run of `_RUN` values of the bank, which wraps around, float32 (NOISE_VALUES, _RUN).

    Run p * NOISE_VALUES // _RUN + j begins at value j * _RUN + p. So the noise from any start on is runs that follow
    each other, and a device gathers them instead of single values (DECISIONS, 2026-11-29).
    """
    return np.stack([np.roll(bank, -first) for first in range(_RUN)]).reshape(-1, _RUN)


class DeviceErase(nn.Cell):
    """Fill boxes (N, K, 4) of float32 pixels (N, S, S, 3) with 0, with a colour, or with noise.

    `fill` is unused for "const", float32 colours (N, K, 3) for "rand", int32 positions in `bank` (N,) for "pixel". If
    boxes overlap, the later one wins.
    """

    def __init__(self, section: AugmentSection, seed: int) -> None:
        super().__init__(auto_prefix=False)
        self.mode = section.erase_mode
        needs_noise = section.erase_prob > 0 and section.erase_mode == "pixel"
        runs = noise_runs(noise_bank(seed)) if needs_noise else np.zeros((1, _RUN), np.float32)
        self.runs = Parameter(Tensor(runs), name="erase_noise", requires_grad=False)

    def construct(self, x_NHWC: Tensor, boxes_NK4: Tensor, fill: Tensor | None) -> Tensor:
        for k in range(boxes_NK4.shape[1]):
            inside_NHWC = box_mask(boxes_NK4[:, k], x_NHWC.shape[1]) > 0
            x_NHWC = ops.select(inside_NHWC, self.filling(x_NHWC.shape, fill, k), x_NHWC)
        return x_NHWC

    def filling(self, shape: tuple[int, ...], fill: Tensor, k: int) -> Tensor:
        """Return the filling of box k for all pixels of the batch."""
        if self.mode == "const":
            return ops.zeros(shape, ms.float32)
        if self.mode == "rand":
            return ops.broadcast_to(ops.reshape(fill[:, k], (-1, 1, 1, 3)), shape)
        return self.noise(shape, fill)

    def noise(self, shape: tuple[int, ...], start_N: Tensor) -> Tensor:
        """Return each sample's noise, from its start in the bank on."""
        values, per_phase = shape[1] * shape[2] * shape[3], self.runs.shape[0] // _RUN
        count = (values + _RUN - 1) // _RUN
        start_N1 = ops.expand_dims(start_N, 1)
        phase_N1, first_N1 = start_N1 % _RUN, start_N1 // _RUN
        runs = phase_N1 * per_phase + (first_N1 + int32_range(count)) % per_phase
        noise = ops.reshape(ops.gather(self.runs, runs, 0), (shape[0], count * _RUN))
        if count * _RUN > values:
            noise = noise[:, :values]
        return ops.reshape(noise, shape)


def int32_range(count: int) -> Tensor:
    """Return 0 .. count - 1 as int32: indices of 64 bits take twice the memory, and more time on an Ascend."""
    return ops.arange(0, count, dtype=ms.int32)


def box_mask(boxes_N4: Tensor, size_px: int) -> Tensor:
    """Return float32 (N, S, S, 3): 1 inside each sample's box (top, left, bottom, right), 0 elsewhere.

    It is a matrix product of zeros and ones, which is exact on every device; on the CPU it takes a tenth of the time of
    a broadcast (DECISIONS, 2026-11-24).
    """
    at_S = ops.expand_dims(int32_range(size_px), 0)
    at_S3 = ops.expand_dims(int32_range(3 * size_px) // 3, 0)
    # Views of one transposed tensor: on an Ascend each slice would be a kernel.
    sides = mint.split(ops.transpose(boxes_N4, (1, 0)), 1)
    top_N1, left_N1, bottom_N1, right_N1 = [ops.reshape(side, (-1, 1)) for side in sides]
    rows_NS = ops.logical_and(at_S >= top_N1, at_S < bottom_N1)
    columns_NS3 = ops.logical_and(at_S3 >= left_N1, at_S3 < right_N1)
    down_NS1 = ops.expand_dims(ops.cast(rows_NS, ms.float32), 2)
    across_N1S3 = ops.expand_dims(ops.cast(columns_NS3, ms.float32), 1)
    return ops.reshape(ops.bmm(down_NS1, across_N1S3), (-1, size_px, size_px, 3))


def _box(section: AugmentSection, rng: np.random.Generator, size_px: int) -> tuple[int, int, int, int]:
    (low, high), (log_low, log_high) = section.erase_scale, (math.log(ratio) for ratio in section.erase_ratio)
    for _ in range(_TRIES):
        area_draw, ratio_draw, top_draw, left_draw = rng.random(4)
        area = size_px * size_px * (low + area_draw * (high - low)) / section.erase_count
        aspect = math.exp(log_low + ratio_draw * (log_high - log_low))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < size_px and width < size_px:
            top, left = int(top_draw * (size_px - height + 1)), int(left_draw * (size_px - width + 1))
            return top, left, top + height, left + width
    return 0, 0, 0, 0
