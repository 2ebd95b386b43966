"""The loop: epochs of steps, evaluation, metrics and a checkpoint after each; it must not print.

Epochs count from 1, optimizer steps from 0. A mid-epoch resume starts `pipeline.batches` at a later step.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mindspore import Tensor

from convnext_imagenet.model.weights import ModelCard
from convnext_imagenet.records.reading import Split
from convnext_imagenet.serve.evaluate import Accuracy, evaluate
from convnext_imagenet.train.checkpoint import Checkpoints, Position
from convnext_imagenet.train.config import Config
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.interrupts import StopSignals
from convnext_imagenet.train.learner import Learner
from convnext_imagenet.train.metrics import append_metrics
from convnext_imagenet.train.pipeline import Batch, batches
from convnext_imagenet.train.plan import StepPlan
from convnext_imagenet.train.schedule import learning_rate


@dataclass(frozen=True)
class StepReport:
    """One finished optimizer step; `step` counts from 1 within the epoch."""

    epoch: int
    step: int
    images: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class EpochReport:
    """One finished epoch; loss and top-1 of training are means over its steps, `last_loss` is the last step's.

    `data_wait_s` is how long the loop waited for batches, `train_s` and `eval_s` what the two parts took.
    """

    epoch: int
    steps_per_epoch: int
    step: int
    train_loss: float
    last_loss: float
    train_top1: float
    learning_rate: float
    images_per_s: float
    data_wait_s: float
    train_s: float
    eval_s: float
    accuracy: Accuracy | None


class Reporter(Protocol):
    """What the loop tells its caller while it runs."""

    def on_step(self, report: StepReport) -> None:
        """A step has finished."""

    def on_epoch(self, report: EpochReport) -> None:
        """An epoch has finished and is saved."""


@dataclass(frozen=True)
class Job:
    """All that the loop needs; `workers` threads prepare batches and change no number."""

    config: Config
    plan: StepPlan
    card: ModelCard
    learner: Learner
    train_split: Split
    val_split: Split
    checkpoints: Checkpoints
    metrics_path: Path
    workers: int
    reporter: Reporter
    stop: StopSignals


def run_epochs(job: Job, done: int) -> None:
    """Train the epochs after the first `done` ones; each ends in a metrics line and a checkpoint.

    Raises Interrupted on a stop signal and TrainError on a loss that is not finite.
    """
    for epoch in range(done + 1, job.config.train.epochs + 1):
        report = train_epoch(job, epoch)
        accuracy = report.accuracy
        append_metrics(job.metrics_path, metrics_line(report))
        position = Position(epoch=epoch, step=report.step, top1=accuracy.top1 if accuracy else None)
        job.checkpoints.save(position, job.learner.weights(), job.learner.state(), job.card)
        job.reporter.on_epoch(report)


def train_epoch(job: Job, epoch: int) -> EpochReport:
    """Run one epoch's steps and, where it is due, the evaluation."""
    begin = time.perf_counter()
    totals = _Totals(job, epoch)
    first_step = (epoch - 1) * job.plan.steps_per_epoch
    for step, batch in enumerate(totals.timed(batches(job.train_split, job.config, job.plan, epoch, job.workers))):
        job.stop.check()
        rate = learning_rate(first_step + step, job.plan, job.config.schedule)
        totals.add(job.learner.learn(batch, epoch, rate), rate)
    totals.settle()
    trained = time.perf_counter()
    accuracy = _evaluate(job) if _is_evaluated(job.config, epoch) else None
    images = totals.steps * job.plan.global_batch_size
    return EpochReport(
        epoch=epoch,
        steps_per_epoch=totals.steps,
        step=first_step + totals.steps,
        train_loss=totals.loss_sum / totals.steps,
        last_loss=totals.last_loss,
        train_top1=totals.correct / images,
        learning_rate=totals.rate,
        images_per_s=images / (trained - begin),
        data_wait_s=totals.data_wait_s,
        train_s=trained - begin,
        eval_s=time.perf_counter() - trained,
        accuracy=accuracy,
    )


def metrics_line(report: EpochReport) -> dict[str, Any]:
    """Return the epoch as a line of metrics.jsonl; the val_ values are null where it was not evaluated."""
    accuracy = report.accuracy
    return {
        "epoch": report.epoch,
        "step": report.step,
        "train_loss": report.train_loss,
        "train_top1": report.train_top1,
        "learning_rate": report.learning_rate,
        "val_top1": accuracy and accuracy.top1,
        "val_top5": accuracy and accuracy.top5,
        "val_rows": accuracy and accuracy.rows,
        "val_top1_correct": accuracy and accuracy.top1_correct,
        "val_top5_correct": accuracy and accuracy.top5_correct,
        "images_per_s": round(report.images_per_s, 2),
        "data_wait_s": round(report.data_wait_s, 3),
        "train_s": round(report.train_s, 3),
        "eval_s": round(report.eval_s, 3),
    }


def _is_evaluated(config: Config, epoch: int) -> bool:
    return epoch == config.train.epochs or epoch % config.train.eval_every_epochs == 0


def _evaluate(job: Job) -> Accuracy:
    return evaluate(
        job.learner.classifier,
        job.card.transform,
        job.val_split,
        job.config.data.eval_batch_size,
        job.workers,
        on_progress=lambda rows: job.stop.check(),
    )


class _Totals:
    """Sums over an epoch's steps. A step's loss is read one step later, so that the device never waits for it."""

    def __init__(self, job: Job, epoch: int) -> None:
        self.job = job
        self.epoch = epoch
        self.steps = 0
        self.loss_sum = 0.0
        self.last_loss = math.nan
        self.correct = 0.0
        self.rate = 0.0
        self.data_wait_s = 0.0
        self._running: tuple[Tensor, Tensor] | None = None

    def timed(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """Yield from `source` and add up how long it took to answer."""
        while True:
            begin = time.perf_counter()
            batch = next(source, None)
            self.data_wait_s += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def add(self, running: tuple[Tensor, Tensor], rate: float) -> None:
        """Note a step that has been started, and settle the one before it."""
        self.settle()
        self._running, self.rate = running, rate

    def settle(self) -> None:
        """Wait for the step noted last, add it up and report it; TrainError when its loss is not finite."""
        if self._running is None:
            return
        loss, correct = (float(value.asnumpy()) for value in self._running)
        self._running = None
        self.steps += 1
        if not math.isfinite(loss):
            raise TrainError(
                f"epoch {self.epoch} step {self.steps}: the loss is {loss}; the checkpoints of the epochs before are "
                f"whole; train into another directory with a lower schedule.base_lr or a longer "
                f"schedule.warmup_epochs"
            )
        self.loss_sum, self.last_loss, self.correct = self.loss_sum + loss, loss, self.correct + correct
        self.job.reporter.on_step(StepReport(self.epoch, self.steps, self.job.plan.global_batch_size, loss, self.rate))
