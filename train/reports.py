"""What the loop tells while it runs, and one epoch as a line of metrics.jsonl."""

from dataclasses import dataclass
from typing import Any, Protocol

from convnext_imagenet.serve.evaluate import Accuracy


@dataclass(frozen=True)
class StepReport:
    """One finished optimizer step; `step` counts from 1 within the epoch, `steps_done` within the run."""

    epoch: int
    step: int
    steps_done: int
    images: int
    loss: float
    learning_rate: float
    gradient_norm: float
    taken: bool
    loss_scale: float


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch; loss and top-1 of training are means over its steps, `last_loss` is the last step's.

    `train_top1` counts rows whose best class is their own label, mixed or not. `skipped` counts steps that overflowed.
    `data_wait_s` is how long the loop waited for batches, `train_s` and `eval_s` what the two parts took.
    """

    epoch: int
    steps_per_epoch: int
    step: int
    train_loss: float
    last_loss: float
    train_top1: float
    learning_rate: float
    skipped: int
    images_per_s: float
    data_wait_s: float
    train_s: float
    eval_s: float
    accuracy: Accuracy | None
    ema_accuracy: Accuracy | None


@dataclass(frozen=True)
class FirstStep:
    """How long this process took to compile its first step (`was_cached`: to read it) and to take it, in seconds."""

    compile_s: float
    step_s: float
    was_cached: bool


class Reporter(Protocol):
    """What the loop tells its caller while it runs."""

    def on_first_step(self, first: FirstStep) -> None:
        """The first step of this process has finished."""

    def on_step(self, report: StepReport) -> None:
        """A step has finished."""

    def on_epoch(self, report: EpochReport) -> None:
        """An epoch has finished and is saved."""

    def on_warning(self, text: str) -> None:
        """The run looks ill."""


def metrics_line(report: EpochReport) -> dict[str, Any]:
    """Return the epoch as a line of metrics.jsonl; the val_ values are null where it was not evaluated."""
    accuracy, average = report.accuracy, report.ema_accuracy
    return {
        "epoch": report.epoch,
        "step": report.step,
        "train_loss": report.train_loss,
        "train_top1": report.train_top1,
        "learning_rate": report.learning_rate,
        "skipped_steps": report.skipped,
        "val_top1": accuracy and accuracy.top1,
        "val_top5": accuracy and accuracy.top5,
        "val_rows": accuracy and accuracy.rows,
        "val_top1_correct": accuracy and accuracy.top1_correct,
        "val_top5_correct": accuracy and accuracy.top5_correct,
        "ema_val_top1": average and average.top1,
        "ema_val_top5": average and average.top5,
        "images_per_s": round(report.images_per_s, 2),
        "data_wait_s": round(report.data_wait_s, 3),
        "train_s": round(report.train_s, 3),
        "eval_s": round(report.eval_s, 3),
    }
