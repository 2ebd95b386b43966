"""RandomErasing's draws: which boxes of a sample are erased, and with what, as pure functions of its key."""

import math

import numpy as np

from convnext_imagenet.records.order import keyed_rng
from convnext_imagenet.train.sections import AugmentSection

_TRIES = 10
NOISE_VALUES = 1 << 21  # of the bank that the device keeps: 14 images of 224 px


def erase_boxes(section: AugmentSection, seed: int, epoch: int, sample_id: int, size_px: int) -> np.ndarray:
    """Return a sample's boxes, int32 (count, 4) of top, left, bottom, right in pixels; an empty box is all 0.

    With probability `erase_prob`, each of `erase_count` boxes gets its share of an area uniform in `erase_scale`, a
    ratio of height to width log-uniform in `erase_ratio`, and a uniform place; it is strictly smaller than the image,
    and left out when ten tries find none (arXiv 1708.04896, as in timm's RandomErasing).
    """
    rng = keyed_rng(seed, epoch, sample_id, "erase")
    boxes = np.zeros((section.erase_count, 4), np.int32)
    if rng.random() >= section.erase_prob:
        return boxes
    for box in boxes:
        box[:] = _box(section, rng, size_px)
    return boxes


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


def erase_colours(section: AugmentSection, seed: int, epoch: int, sample_id: int) -> np.ndarray:
    """Return one N(0, 1) colour for each box, float32 (count, 3): what mode "rand" fills with."""
    rng = keyed_rng(seed, epoch, sample_id, "erase colour")
    return rng.standard_normal((section.erase_count, 3), np.float32)


def noise_start(seed: int, epoch: int, sample_id: int) -> int:
    """Return where in the noise bank the sample's own pixels begin: what mode "pixel" fills with."""
    return int(keyed_rng(seed, epoch, sample_id, "erase noise").integers(NOISE_VALUES))


def noise_bank(seed: int) -> np.ndarray:
    """Return the run's N(0, 1) values, float32 (NOISE_VALUES,); a sample reads them from its start on, around the end.

    Sending each sample its own noise would be four times the bytes of its pixels.
    """
    return keyed_rng(seed, "erase noise bank").standard_normal(NOISE_VALUES, np.float32)
