"""Steps, epochs and learning rates of a run, as pure functions of the configuration and the number of rows.

This module must not know records, weights or MindSpore.
"""

import math
from dataclasses import dataclass

import numpy as np

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.sections import EmaSection, ScheduleSection
from convnext_imagenet.train.errors import ConfigError


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run. Step s of an epoch takes rows order[s * G : (s + 1) * G]; G is `global_batch_size`."""

    rows: int
    global_batch_size: int
    epochs: int
    steps_per_epoch: int
    warmup_steps: int
    total_steps: int


def plan_steps(config: Config, rows: int, ranks: int = 1) -> StepPlan:
    """Return the step counts of a run over `rows` training rows by `ranks` devices.

    An epoch drops the last, incomplete global batch of its permutation: at most G - 1 rows, different ones in each
    epoch. Raises ConfigError when the rows do not fill one batch, or when ranks and micro-batches do not divide it.
    """
    batch = config.data.global_batch_size
    if rows < batch:
        raise ConfigError(
            f"data.global_batch_size = {batch}: must not exceed the {rows} training rows; "
            f"pass --set data.global_batch_size={max(1, rows // 8)}"
        )
    local_positions(batch, 0, ranks * config.optimizer.accumulate_steps)  # raises if the parts do not divide the batch
    steps_per_epoch = rows // batch
    return StepPlan(
        rows=rows,
        global_batch_size=batch,
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=round(config.schedule.warmup_epochs * steps_per_epoch),
        total_steps=config.train.epochs * steps_per_epoch,
    )


def local_positions(batch_size: int, part: int, parts: int) -> np.ndarray:
    """Return the positions, int64, of part `part` of `parts` in a global batch.

    A part takes a slice of the first half and the mirrored slice of the second half. So mirroring the part pairs each
    row with its partner in the *global* batch: row i with row G - 1 - i (DECISIONS, 2026-11-24). A single part is the
    whole batch, of any size. Raises ConfigError when 2 x parts does not divide the batch.
    """
    if parts == 1:
        return np.arange(batch_size)
    if batch_size % (2 * parts):
        raise ConfigError(
            f"data.global_batch_size = {batch_size}: {parts} parts (devices x optimizer.accumulate_steps) take pairs "
            f"of its rows, so it must be a multiple of {2 * parts}; the nearest is "
            f"{max(1, round(batch_size / (2 * parts))) * 2 * parts}"
        )
    half = batch_size // (2 * parts)
    first = np.arange(part * half, (part + 1) * half)
    return np.concatenate([first, batch_size - 1 - first[::-1]])


def learning_rate(step: int, plan: StepPlan, schedule: ScheduleSection) -> float:
    """Return the learning rate of optimizer step `step` (0 .. total_steps - 1).

    Warm-up is linspace(warmup_lr, base_lr, warmup_steps), both ends included. The cosine then starts at base_lr and
    would reach min_lr at step total_steps (facebookresearch/ConvNeXt, utils.cosine_scheduler). The kind "step" counts
    its epochs from the beginning of the run, as timm does. Raises ValueError for a step outside the run.
    """
    if not 0 <= step < plan.total_steps:
        raise ValueError(f"step {step} is outside 0..{plan.total_steps - 1}")
    if step < plan.warmup_steps:
        fraction = step / max(1, plan.warmup_steps - 1)
        return schedule.warmup_lr + fraction * (schedule.base_lr - schedule.warmup_lr)
    if schedule.kind == "constant":
        return schedule.base_lr
    if schedule.kind == "step":
        falls = math.floor(step / plan.steps_per_epoch / schedule.decay_epochs)
        return max(schedule.min_lr, schedule.base_lr * schedule.decay_rate**falls)
    fraction = (step - plan.warmup_steps) / (plan.total_steps - plan.warmup_steps)
    return schedule.min_lr + 0.5 * (schedule.base_lr - schedule.min_lr) * (1 + math.cos(math.pi * fraction))


def ema_decay(step: int, ema: EmaSection) -> float:
    """Return the decay of the weight average at optimizer step `step`, which counts from 0.

    Warm-up is TensorFlow's ExponentialMovingAverage with num_updates: min(decay, (1 + t) / (10 + t)).
    """
    if not ema.warmup:
        return ema.decay
    return min(ema.decay, (1 + step) / (10 + step))
