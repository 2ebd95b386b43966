"""The learning rate of each optimizer step, as a pure function."""

import math

from convnext_imagenet.train.config import ScheduleSection
from convnext_imagenet.train.plan import StepPlan


def learning_rate(step: int, plan: StepPlan, schedule: ScheduleSection) -> float:
    """Return the rate of optimizer step `step` (0 .. total_steps - 1).

    Warm-up is linspace(warmup_lr, base_lr, warmup_steps), both ends included; the cosine then starts at base_lr
    and would reach min_lr at step total_steps (facebookresearch/ConvNeXt, utils.cosine_scheduler).
    """
    if not 0 <= step < plan.total_steps:
        raise ValueError(f"step {step} is outside 0..{plan.total_steps - 1}")
    if step < plan.warmup_steps:
        fraction = step / max(1, plan.warmup_steps - 1)
        return schedule.warmup_lr + fraction * (schedule.base_lr - schedule.warmup_lr)
    fraction = (step - plan.warmup_steps) / (plan.total_steps - plan.warmup_steps)
    return schedule.min_lr + 0.5 * (schedule.base_lr - schedule.min_lr) * (1 + math.cos(math.pi * fraction))
