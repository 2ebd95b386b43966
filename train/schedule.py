"""The learning rate and the average's decay of each optimizer step, as pure functions."""

import math

from convnext_imagenet.train.plan import StepPlan
from convnext_imagenet.train.sections import EmaSection, ScheduleSection


def learning_rate(step: int, plan: StepPlan, schedule: ScheduleSection) -> float:
    """Return the rate of optimizer step `step` (0 .. total_steps - 1).

    Warm-up is linspace(warmup_lr, base_lr, warmup_steps), both ends included; the cosine then starts at base_lr
    and would reach min_lr at step total_steps (facebookresearch/ConvNeXt, utils.cosine_scheduler). Steps of the kind
    "step" are counted from the beginning of the run, as in timm.
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
    """Return by how much the average keeps of itself after optimizer step `step`, which counts from 0."""
    if not ema.warmup:
        return ema.decay
    return min(ema.decay, (1 + step) / (10 + step))
