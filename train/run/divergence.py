"""Decides when a run has diverged, and words it. This module must not read, write or print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.sections import PrecisionSection
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.step.learner import StepOutcome

MOST_SKIPPED_IN_A_ROW = 40  # a dynamic scale of 2^24 is below 1 after 24 overflows
_IDS_SHOWN = 8


@dataclass(frozen=True)
class FiniteStep:
    """The last step whose loss and gradient norm were finite; `step` counts from 1 within the run."""

    step: int
    loss: float
    gradient_norm: float


class Divergence(TrainError):
    """Training that has diverged in step `step` of its epoch, counted from 1.

    `reason` says what was found, `sample_ids` are the rows of the step on all ranks, empty if no single step is to
    blame. `last` is the last step with finite numbers, None if there was none in this process.
    """

    def __init__(
        self, epoch: int, step: int, reason: str, sample_ids: Sequence[int] = (), last: FiniteStep | None = None
    ) -> None:
        super().__init__(f"epoch {epoch} step {step}: {reason}")
        self.epoch, self.step, self.reason = epoch, step, reason
        self.sample_ids, self.last = tuple(sample_ids), last


class DivergenceWatch:
    """Examines each step's outcome; without a loss scale the first one that is not finite is a divergence.

    With a loss scale a step whose gradients overflow is skipped; only MOST_SKIPPED_IN_A_ROW of them are a divergence.
    """

    def __init__(self, precision: PrecisionSection) -> None:
        self._precision = precision
        self._skipped_in_a_row = 0
        self.last: FiniteStep | None = None

    def reason(self, outcome: StepOutcome, step: int) -> str | None:
        """Return why the step (counted within the run) is a divergence, or None."""
        has_scale = self._precision.loss_scale != "none"
        norm, loss = outcome.gradient_norm, outcome.loss
        if math.isfinite(loss) and math.isfinite(norm):
            self._skipped_in_a_row = 0
            self.last = FiniteStep(step, loss, norm)
            return None
        if outcome.taken or not has_scale:
            return f"loss {loss:g} and gradient norm {norm:g} are not finite, computed in {in_words(self._precision)}"
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row < MOST_SKIPPED_IN_A_ROW:
            return None
        return (
            f"the gradients of {MOST_SKIPPED_IN_A_ROW} steps in a row overflowed and were skipped; the loss scale is "
            f"{outcome.loss_scale:g}, computed in {in_words(self._precision)}"
        )

    def restart(self) -> None:
        """Forget skipped steps, after a return to an earlier checkpoint."""
        self._skipped_in_a_row = 0


def in_words(precision: PrecisionSection) -> str:
    """Return the precision that is in force, such as "float32" or "float16 (O2, dynamic loss scale)"."""
    if precision.level == "O0":
        return "float32"
    scale = "no" if precision.loss_scale == "none" else precision.loss_scale
    return f"{precision.dtype} ({precision.level}, {scale} loss scale)"


def explain(divergence: Divergence, config: Config, last_checkpoint: str | None, rolled_back: int) -> str:
    """Return the whole error line: what happened, the last finite numbers, the rows, what is left, and what to try.

    `last_checkpoint` names the last checkpoint, None if there is none. `rolled_back` counts the rollbacks so far.
    """
    parts = [str(divergence)]
    if divergence.last is not None:
        last = divergence.last
        parts.append(f"the last finite step was {last.step} (loss {last.loss:g}, gradient norm {last.gradient_norm:g})")
    if ids := divergence.sample_ids:
        shown = ", ".join(map(str, ids[:_IDS_SHOWN]))
        more = f" and {len(ids) - _IDS_SHOWN} more in divergence.json" if len(ids) > _IDS_SHOWN else ""
        parts.append(f"sample ids of the step: {shown}{more}")
    parts.append(f"checkpoint {last_checkpoint} is whole" if last_checkpoint else "no checkpoint was saved before it")
    if rolled_back:
        parts.append(f"the run has already rolled back {rolled_back} time{'s' * (rolled_back != 1)}")
    return f"{'; '.join(parts)}; {_way_out(config, last_checkpoint is not None and not rolled_back)}"


def _way_out(config: Config, can_roll_back: bool) -> str:
    schedule, precision = config.schedule, config.precision
    tries = [f"schedule.base_lr below {schedule.base_lr:g}", f"schedule.warmup_epochs above {schedule.warmup_epochs:g}"]
    if not config.optimizer.clip_norm:
        tries.append("optimizer.clip_norm=1")
    if precision.level != "O0":
        tries = [*_other_precision(precision), *tries]
    words = f"train into another directory with {', or '.join(tries)}"
    return f"{words}; or resume this one with --on-divergence rollback" if can_roll_back else words


def _other_precision(precision: PrecisionSection) -> list[str]:
    if precision.dtype == "bfloat16":
        return ["precision.level=O0"]
    if precision.loss_scale == "none":
        return ["precision.loss_scale=dynamic", "precision.level=O0"]
    if precision.loss_scale == "static":
        return [f"precision.scale_init below {precision.scale_init:g}", "precision.loss_scale=dynamic"]
    return ["precision.dtype=bfloat16", "precision.level=O0"]
