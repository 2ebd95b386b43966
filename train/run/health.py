"""The health of a run: decides which of its numbers deserve a warning. This module must not read, write or print."""

import math
from collections import deque

from convnext_imagenet.train.config.schedule import StepPlan
from convnext_imagenet.train.config.sections import AugmentSection, DataSection, ScheduleSection
from convnext_imagenet.train.data.pipeline import StageTimes
from convnext_imagenet.train.run.epoch import EpochReport, StepReport

_WINDOW_STEPS = 50  # the loss of a single step is too noisy
_STUCK_SHARE = 0.02  # of ln(classes): a network at chance level stays within 2 % of it
_STARVED_SHARE = 0.2  # of the training time, spent waiting for images
_MOST_SKIPPED_IN_A_ROW = 20  # a dynamic loss scale needs some overflows to come down from 2^24
_LEAST_EVAL_RATIO, _MOST_EVAL_RATIO = 0.8, 1.6  # of the training size: a network at 64 px has 33 % at 224, 59 % at 64
_SIDE_MULTIPLE = 32  # the stem divides by 4, three down-samplers by 2 each; the rest at the border is dropped


def size_warnings(data: DataSection) -> list[str]:
    """Return a warning for each image size that loses border pixels, and for sizes that are far apart.

    In a run with ten classes, 80 px instead of 64 px lost 7 points of top-1.
    """
    sizes = {"data.size_px": data.size_px}
    if data.eval_size_px != data.size_px:
        sizes["data.eval_size_px"] = data.eval_size_px
    warnings = [
        f"{key} = {size}: not a multiple of {_SIDE_MULTIPLE}, so the network ignores pixels at two borders; "
        f"the nearest is {max(1, round(size / _SIDE_MULTIPLE)) * _SIDE_MULTIPLE}"
        for key, size in sizes.items()
        if size % _SIDE_MULTIPLE
    ]
    if not _LEAST_EVAL_RATIO <= data.eval_size_px / data.size_px <= _MOST_EVAL_RATIO:
        warnings.append(
            f"data.eval_size_px = {data.eval_size_px}: far from data.size_px = {data.size_px}, so accuracy will be "
            f"low; leave it out to evaluate at the training size"
        )
    return warnings


def augment_warnings(augment: AugmentSection, device_target: str) -> list[str]:
    """Return a warning for RandAugment in the compiled graph of an Ascend, where it gathers single pixels."""
    if device_target != "Ascend" or not augment.auto_augment or augment.is_on_host:
        return []
    return [
        'augment.device = "all": on Ascend RandAugment would gather single pixels, 32 gathers of all pixels a step, '
        'and nobody has measured it there; "rest" leaves it to the host'
    ]


class RunHealth:
    """Warnings about a run; each is given once until its cause has gone."""

    def __init__(self, schedule: ScheduleSection, classes: int, plan: StepPlan) -> None:
        self._chance_loss = math.log(classes)
        self._warmup_steps = plan.warmup_steps
        self._losses: deque[float] = deque(maxlen=_WINDOW_STEPS)
        self._skipped_in_a_row = 0
        self._is_stuck = self._is_starved = False
        self._base_lr = schedule.base_lr

    def after_step(self, report: StepReport) -> list[str]:
        """Return the warnings that this step causes."""
        return [*self._overflows(report), *self._stuck_loss(report)]

    def after_epoch(self, report: EpochReport, times: StageTimes) -> list[str]:
        """Return a warning that names the slowest stage if the epoch's steps waited for images."""
        share = report.data_wait_s / report.train_s
        was_starved, self._is_starved = self._is_starved, share >= _STARVED_SHARE
        if was_starved or not self._is_starved:
            return []
        return [
            f"epoch {report.epoch}: training waited for images {100 * share:.0f} % of the time; the slowest stage is "
            f"{times.slowest()}: raise --workers, use faster storage, or lower data.size_px"
        ]

    def _overflows(self, report: StepReport) -> list[str]:
        self._skipped_in_a_row = 0 if report.taken else self._skipped_in_a_row + 1
        if self._skipped_in_a_row != _MOST_SKIPPED_IN_A_ROW:
            return []
        return [
            f"epoch {report.epoch} step {report.step}: the gradients of {_MOST_SKIPPED_IN_A_ROW} steps in a row "
            f"overflowed, and the loss scale is {report.loss_scale:g}; lower schedule.base_lr, or train in float32 "
            f"(precision.level = O0)"
        ]

    def _stuck_loss(self, report: StepReport) -> list[str]:
        if report.steps_done <= self._warmup_steps or not report.taken:
            return []
        self._losses.append(report.loss)
        if len(self._losses) < _WINDOW_STEPS:
            return []
        mean = sum(self._losses) / _WINDOW_STEPS
        was_stuck, self._is_stuck = self._is_stuck, mean > (1 - _STUCK_SHARE) * self._chance_loss
        if was_stuck or not self._is_stuck:
            return []
        return [
            f"epoch {report.epoch} step {report.step}: the network is not learning: the mean loss of the last "
            f"{_WINDOW_STEPS} steps is {mean:.3f}, chance level is ln(classes) = {self._chance_loss:.3f}; "
            f"lower schedule.base_lr = {self._base_lr:g}, raise schedule.warmup_epochs, or check the labels "
            f"with `convnext-train replay`"
        ]
