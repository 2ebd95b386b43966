"""The health of a run: what of its numbers deserves a warning, as pure state without input or output."""

import math
from collections import deque

from convnext_imagenet.train.config.schedule import StepPlan
from convnext_imagenet.train.config.sections import DataSection, ScheduleSection
from convnext_imagenet.train.data.pipeline import StageTimes
from convnext_imagenet.train.run.epoch import EpochReport, StepReport

_WINDOW_STEPS = 50
_STUCK_SHARE = 0.02  # of ln(classes): a network at chance level stays within 2 % of it
_STARVED_SHARE = 0.2
_MOST_SKIPPED_IN_A_ROW = 20
_SIDE_MULTIPLE = 32  # the stem's 4 and three times 2: what is left over at the border is dropped


def size_warnings(data: DataSection) -> list[str]:
    """Return what the configured image sizes cost; ten classes at 80 instead of 64 px lost 7 points of top-1."""
    sizes = {"data.size_px": data.size_px, "data.eval_size_px": data.eval_size_px}
    return [
        f"{key} = {size}: not a multiple of {_SIDE_MULTIPLE}, so the network drops pixels at two borders; "
        f"the nearest is {max(1, round(size / _SIDE_MULTIPLE)) * _SIDE_MULTIPLE}"
        for key, size in sizes.items()
        if size % _SIDE_MULTIPLE
    ]


class RunHealth:
    """Warnings about a run, each given once until its cause has gone."""

    def __init__(self, schedule: ScheduleSection, classes: int, plan: StepPlan) -> None:
        self._chance_loss = math.log(classes)
        self._warmup_steps = plan.warmup_steps
        self._losses: deque[float] = deque(maxlen=_WINDOW_STEPS)
        self._skipped_in_a_row = 0
        self._is_stuck = False
        self._base_lr = schedule.base_lr

    def after_step(self, report: StepReport) -> list[str]:
        """Return the warnings that this step gives rise to."""
        return [*self._overflows(report), *self._stuck_loss(report)]

    def after_epoch(self, report: EpochReport, times: StageTimes) -> list[str]:
        """Return a warning when the epoch's steps waited for data, naming the slowest stage."""
        share = report.data_wait_s / report.train_s
        if share < _STARVED_SHARE:
            return []
        return [
            f"epoch {report.epoch}: the steps waited for images {100 * share:.0f} % of the time; "
            f"{times.slowest()} takes longest: give more --workers, faster storage, or a smaller data.size_px"
        ]

    def _overflows(self, report: StepReport) -> list[str]:
        self._skipped_in_a_row = 0 if report.taken else self._skipped_in_a_row + 1
        if self._skipped_in_a_row != _MOST_SKIPPED_IN_A_ROW:
            return []
        return [
            f"epoch {report.epoch} step {report.step}: the gradients of {_MOST_SKIPPED_IN_A_ROW} steps in a row "
            f"overflowed, the loss scale is {report.loss_scale:g}; lower schedule.base_lr, or compute in O0"
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
            f"epoch {report.epoch} step {report.step}: the mean loss of {_WINDOW_STEPS} steps after warm-up is "
            f"{mean:.3f}, chance level is ln(classes) = {self._chance_loss:.3f}: the network does not learn; "
            f"lower schedule.base_lr = {self._base_lr:g}, lengthen schedule.warmup_epochs, or look at the labels "
            f"by `convnext-train replay`"
        ]
