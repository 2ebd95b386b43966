"""Steps, division of a batch, and learning rates of a run: pure functions of configuration, rows and devices.

This module must not know records, weights or MindSpore.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.faults import Fault, fault, refuse
from convnext_imagenet.train.config.sections import EmaSection, ScheduleSection
from convnext_imagenet.train.errors import ConfigError

_BATCH_KEYS = ("data.global_batch_size", "data.device_batch_size", "optimizer.accumulate_steps")


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run. Step s of an epoch takes rows order[s * G : (s + 1) * G]; G is `global_batch_size`."""

    rows: int
    global_batch_size: int
    epochs: int
    steps_per_epoch: int
    warmup_steps: int
    total_steps: int


@dataclass(frozen=True)
class BatchParts:
    """A global batch in equal parts: each of `devices` computes `micro_batches` of `rows` rows, one after another."""

    devices: int
    micro_batches: int
    rows: int

    def __str__(self) -> str:
        """Return the division as an equation."""
        total = self.devices * self.micro_batches * self.rows
        factors = _counted(self.devices, "device"), _counted(self.micro_batches, "micro-batch"), self.rows
        return f"global batch {total} = {' x '.join(map(str, factors))} row{'s' * (self.rows != 1)}"


def plan_steps(config: Config, rows: int, ranks: int = 1) -> StepPlan:
    """Return the step counts of a run over `rows` training rows.

    An epoch drops the last, incomplete global batch of its permutation: at most G - 1 rows, different ones in each
    epoch. Raises ConfigError when the rows do not fill one batch; it then suggests one that `ranks` devices can divide.
    """
    batch = config.data.global_batch_size
    refuse(_row_faults(config, ranks, rows))
    steps_per_epoch = rows // batch
    return StepPlan(
        rows=rows,
        global_batch_size=batch,
        epochs=config.train.epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=round(config.schedule.warmup_epochs * steps_per_epoch),
        total_steps=config.train.epochs * steps_per_epoch,
    )


def divide_batch(config: Config, ranks: int, rows: int | None = None) -> BatchParts:
    """Return how `ranks` devices divide a global batch.

    Parts take pairs of rows (`local_positions`), so each part of several has an even number of rows. A device computes
    the fewest micro-batches that have at most `data.device_batch_size` rows; `optimizer.accumulate_steps` states their
    number instead. Raises ConfigError when nothing divides the batch, when micro-batches would have less than half of
    the rows that were asked for, or when both keys are set and disagree. Its way out is one that this function accepts;
    `rows`, the number of training rows, bounds the batch that it suggests.
    """
    batch = config.data.global_batch_size
    count = _micro_batches(config, ranks, batch)
    if count is None:
        raise ConfigError(_division_fault(config, ranks, rows).text)
    return BatchParts(ranks, count, batch // (ranks * count))


def batch_faults(config: Config, ranks: int, rows: int | None = None) -> list[Fault]:
    """Return why `plan_steps` or `divide_batch` would refuse: at most one fault, whose way out both accept."""
    if rows is not None and (faults := _row_faults(config, ranks, rows)):
        return faults
    is_divided = _micro_batches(config, ranks, config.data.global_batch_size) is not None
    return [] if is_divided else [_division_fault(config, ranks, rows)]


def _row_faults(config: Config, ranks: int, rows: int) -> list[Fault]:
    batch = config.data.global_batch_size
    if batch <= rows:
        return []
    way_out, near = _way_out(config, ranks, max(1, rows // 8), rows)
    rate = f" --set schedule.base_lr={_scaled_rate(config, near)}" if near else ""
    text = f"data.global_batch_size = {batch}: must not exceed the {rows} training rows; {way_out}{rate}"
    return [fault(text, *_BATCH_KEYS)]


def _scaled_rate(config: Config, batch: int) -> str:
    """Return the rate for another batch by the square-root rule, and not below the other rates of the schedule."""
    schedule = config.schedule
    scaled = schedule.base_lr * math.sqrt(batch / config.data.global_batch_size)
    return f"{max(scaled, schedule.min_lr, schedule.warmup_lr):.2g}"


def _division_fault(config: Config, ranks: int, rows: int | None) -> Fault:
    way_out, _ = _way_out(config, ranks, config.data.global_batch_size, rows)
    return fault(f"{_refusal(config, ranks)}; {way_out}{_or_fewer_rows(config, ranks)}", *_BATCH_KEYS)


def _micro_batches(config: Config, ranks: int, batch: int, stated: int | None = None) -> int | None:
    """Return the micro-batches of each device, or None if the batch is refused.

    `stated` replaces `optimizer.accumulate_steps`.
    """
    most = config.data.device_batch_size
    stated = config.optimizer.accumulate_steps if stated is None else stated
    count: int | None = 1 if most else stated or 1
    if most and batch > ranks * most:
        rows = _most_rows(batch, ranks, most, least=-(-most // 2))
        count = batch // (ranks * rows) if rows else None
    if count is None or not _can_divide(batch, ranks * count):
        return None
    return count if not stated or count == stated else None


def _most_rows(batch: int, ranks: int, most: int, least: int) -> int | None:
    """Return the largest even number of rows from `least` to `most` that divides the share of a device, or None."""
    most = min(most, batch // ranks)
    even = range(most - most % 2, max(2, least) - 1, -2)
    return next((rows for rows in even if batch % (ranks * rows) == 0), None)


def _can_divide(batch: int, parts: int) -> bool:
    return parts == 1 or batch % (2 * parts) == 0


def _refusal(config: Config, ranks: int) -> str:
    """Return which rule the batch of `config` breaks."""
    batch, most = config.data.global_batch_size, config.data.device_batch_size
    stated, devices = config.optimizer.accumulate_steps, _counted(ranks, "device")
    if not _can_divide(batch, ranks):
        rule = f"so it must be a multiple of {2 * ranks}"
        return f"data.global_batch_size = {batch}: {devices} take pairs of its rows, {rule}"
    if stated and not most:
        return (
            f"optimizer.accumulate_steps = {stated}: {devices} with {stated} micro-batches take pairs of a batch's "
            f"rows, so data.global_batch_size = {batch} must be a multiple of {2 * ranks * stated}"
        )
    if stated and (derived := _micro_batches(config, ranks, batch, stated=0)):
        return (
            f"optimizer.accumulate_steps = {stated}: contradicts data.device_batch_size = {most}, which gives "
            f"{derived} on {devices}; set only one of the two keys"
        )
    return (
        f"data.device_batch_size = {most}: {devices} cannot divide data.global_batch_size = {batch} into micro-batches "
        f"of {-(-most // 2)} to {most} rows in pairs"
    )


def _way_out(config: Config, ranks: int, batch: int, rows: int | None) -> tuple[str, int | None]:
    """Return what to pass instead: a batch near `batch` of at most `rows` rows, and it; or fewer devices, and None."""
    stated = config.optimizer.accumulate_steps
    for kept in [0] if config.data.device_batch_size else dict.fromkeys((stated, 0)):
        near = _nearest_batch(config, ranks, batch, rows, kept)
        if near is None:
            continue
        words = [] if kept == stated else ["--set optimizer.accumulate_steps=0"]
        words += [] if near == config.data.global_batch_size else [f"--set data.global_batch_size={near}"]
        return f"pass {' '.join(words)}", near
    return f"use at most {_counted(max(1, (rows or batch) // 2), 'device')}, or records with more rows", None


def _or_fewer_rows(config: Config, ranks: int) -> str:
    """Return the way out that keeps the batch, if it takes only fewer rows at a time than half of those asked for."""
    batch, most = config.data.global_batch_size, config.data.device_batch_size
    rows = None if _micro_batches(config, ranks, batch, stated=0) else _most_rows(batch, ranks, most, least=2)
    if rows is None:
        return ""
    fixed = "--set optimizer.accumulate_steps=0 " if config.optimizer.accumulate_steps else ""
    return f", or {fixed}--set data.device_batch_size={rows}"


def _nearest_batch(config: Config, ranks: int, batch: int, rows: int | None, stated: int) -> int | None:
    """Return the accepted batch of at most `rows` rows that is nearest to `batch`; of two, the larger."""
    unit = 2 * ranks * (stated or 1)
    reach = batch + ranks * max(2, config.data.device_batch_size, 2 * stated)  # equal parts of the most rows are within
    below = batch // unit * unit
    above = range(below + unit, min(reach, rows or reach) + 1, unit)
    near = heapq.merge(above, range(below, 0, -unit), key=lambda size: abs(size - batch))  # lazy: may be billions
    fits = (size for size in near if rows is None or size <= rows)
    return next((size for size in fits if _micro_batches(config, ranks, size, stated)), None)


def _counted(count: int, noun: str) -> str:
    plural = "es" if noun.endswith("h") else "s"
    return f"{count} {noun}{plural * (count != 1)}"


def local_positions(batch_size: int, part: int, parts: int) -> np.ndarray:
    """Return the positions, int64, of part `part` of `parts` in a global batch.

    A part takes a slice of the first half and the mirrored slice of the second half. So mirroring the part pairs each
    row with its partner in the *global* batch: row i with row G - 1 - i (DECISIONS, 2026-11-24). A single part is the
    whole batch, of any size. Raises ValueError when 2 x parts does not divide the batch; `divide_batch` refuses before.
    """
    if not _can_divide(batch_size, parts):
        raise ValueError(f"{batch_size} rows in {parts} parts of pairs: must be a multiple of {2 * parts}")
    if parts == 1:
        return np.arange(batch_size)
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
