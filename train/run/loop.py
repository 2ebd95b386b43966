"""The loop: epochs of steps, evaluation, metrics and checkpoints; it must not print.

Epochs count from 1, optimizer steps from 0. All that a later step depends on is in a checkpoint, so a run may stop
after any step, and go on, without a trace in its numbers.
"""

import math
import time
from collections.abc import Iterator

import numpy as np
from mindspore import Tensor

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.serve.evaluate import Accuracy, evaluate
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import ema_decay, learning_rate
from convnext_imagenet.train.data.pipeline import Batch, StageTimes, batches
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.run.checkpoint import Position
from convnext_imagenet.train.run.context import Job
from convnext_imagenet.train.run.epoch import EpochReport, FirstStep, StepReport, Totals, append_metrics, metrics_line
from convnext_imagenet.train.run.health import Watch
from convnext_imagenet.train.step.learner import outcome


def run_epochs(job: Job, done: Position) -> None:
    """Train from the position `done` to the end; each epoch ends in a metrics line and a checkpoint.

    Raises Interrupted on a stop signal, with a checkpoint saved, and TrainError on a loss that is not finite.
    """
    watch = Watch(job.config, job.card.config.num_classes, job.plan)
    within = Totals() if done.within is None else Totals.from_json(done.within)
    for epoch in range(done.epoch + 1, job.config.train.epochs + 1):
        report = _Epoch(job, epoch, within, watch).run()
        if job.ranks.own.is_first:
            append_metrics(job.metrics_path, metrics_line(report))
        job.save(Position(epoch, report.step, _top1(report.accuracy), _top1(report.ema_accuracy)))
        job.reporter.on_epoch(report)
        within = Totals()


class _Epoch:
    """One epoch, from its beginning or from `totals` on.

    A step's outcome is read one step later, so that the device never waits for the host. What a rank asks for, to stop
    or to save, goes with its next step to all ranks, which read the answer with the outcome and act alike.
    """

    def __init__(self, job: Job, epoch: int, totals: Totals, watch: Watch) -> None:
        self.job = job
        self.epoch = epoch
        self.totals = totals
        self.watch = watch
        self.first_step = (epoch - 1) * job.plan.steps_per_epoch
        self.times = StageTimes()
        self._running: tuple[Tensor, float] | None = None
        self._is_stop_asked = self._is_save_asked = False
        self._saved_at = self._timed_from = time.perf_counter()
        self._waited_s = 0.0

    def run(self) -> EpochReport:
        """Run the steps that are left and, where it is due, the evaluation."""
        try:
            self._train()
            begin = time.perf_counter()
            accuracy, average = self._evaluate() if _is_evaluated(self.job.config, self.epoch) else (None, None)
        except Interrupted:
            self._save()
            raise self.job.stop.interruption() from None
        return self._report(accuracy, average, time.perf_counter() - begin)

    def _train(self) -> None:
        config, plan = self.job.config, self.job.plan
        source = batches(
            self.job.train_split, config, plan, self.epoch, self.job.workers, self.totals.steps,
            self.job.learner.drop_path_rates, self.job.ranks.own, self.times, self._check_stop_alone,
        )  # fmt: skip
        for group in self._timed(_grouped(source, config.optimizer.accumulate_steps)):
            self._check_stop_alone()
            step = self.first_step + self.totals.steps + (self._running is not None)
            rate = learning_rate(step, plan, config.schedule)
            running = self._learn(group, rate, ema_decay(step, config.ema))
            self._settle()
            self._running = running, rate
            if self._is_stop_asked:
                raise self.job.stop.interruption()
            if self._is_save_asked or self.job.interval.is_due(step + 1):
                self._save()
        self._settle()
        if self._is_stop_asked:
            raise self.job.stop.interruption()
        self._note_times()

    def _learn(self, group: list[Batch], rate: float, decay: float) -> Tensor:
        """Start a step; the first of this process is compiled, waited for and reported."""
        job = self.job
        overdue = job.interval.is_overdue(self._saved_at, time.perf_counter())
        if job.cache.is_over:
            return job.learner.learn(group, rate, decay, job.stop.received, overdue)
        begin = time.perf_counter()
        with job.cache.compiling():
            job.learner.compile(group)
        compiled = time.perf_counter()
        running = job.learner.learn(group, rate, decay, job.stop.received, overdue)
        outcome(running)
        job.reporter.on_first_step(FirstStep(compiled - begin, time.perf_counter() - compiled, job.cache.was_hit))
        return running

    def _check_stop_alone(self) -> None:
        if self.job.is_alone:
            self.job.stop.check()

    def _timed(self, source: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """Yield from `source` and add up how long it took to answer."""
        while True:
            begin = time.perf_counter()
            group = next(source, None)
            self._waited_s += time.perf_counter() - begin
            if group is None:
                return
            yield group

    def _settle(self) -> None:
        """Wait for the step started last, add it up and report it; TrainError when its loss is not finite."""
        if self._running is None:
            return
        (running, rate), self._running = self._running, None
        found = outcome(running)
        self.job.heartbeat.beat("training", steps=1)
        self._is_stop_asked, self._is_save_asked = found.asked_stop, found.asked_save
        self.totals = self.totals.with_step(found, rate)
        steps = self.totals.steps
        if found.taken and not math.isfinite(found.loss):
            raise TrainError(
                f"epoch {self.epoch} step {steps}: the loss is {found.loss}; the checkpoint before is whole; "
                f"train into another directory with a lower schedule.base_lr or a longer schedule.warmup_epochs"
            )
        report = StepReport(
            epoch=self.epoch, step=steps, steps_done=self.first_step + steps,
            images=self.job.plan.global_batch_size, loss=found.loss, learning_rate=rate,
            gradient_norm=found.gradient_norm, taken=found.taken, loss_scale=found.loss_scale,
        )  # fmt: skip
        self.job.reporter.on_step(report)
        for warning in self.watch.after_step(report):
            self.job.reporter.on_warning(warning)

    def _save(self) -> None:
        """Save where the run stands within the epoch, unless that is its beginning."""
        self._settle()
        self._note_times()
        self._saved_at = time.perf_counter()
        if not self.totals.steps:
            return
        step = self.first_step + self.totals.steps
        self.job.save(Position(self.epoch - 1, step, within=self.totals.to_json()))

    def _note_times(self) -> None:
        now = time.perf_counter()
        self.totals = self.totals.with_times(self._waited_s, now - self._timed_from)
        self._timed_from, self._waited_s = now, 0.0

    def _evaluate(self) -> tuple[Accuracy, Accuracy | None]:
        learner = self.job.learner
        average = learner.average()
        return self._accuracy(learner.weights()), self._accuracy(average) if average else None

    def _accuracy(self, weights: dict[str, np.ndarray]) -> Accuracy:
        self.job.learner.show_to_evaluation(weights)
        return evaluate(
            self.job.learner.classifier,
            self.job.card.transform,
            self.job.val_split,
            self.job.config.data.eval_batch_size,
            self.job.workers,
            on_progress=lambda rows: self.job.heartbeat.beat("evaluating"),
            ranks=self.job.ranks,
            is_stopped=lambda: self.job.stop.received,
        )

    def _report(self, accuracy: Accuracy | None, average: Accuracy | None, eval_s: float) -> EpochReport:
        totals = self.totals
        images = totals.steps * self.job.plan.global_batch_size
        report = EpochReport(
            epoch=self.epoch,
            steps_per_epoch=totals.steps,
            step=self.first_step + totals.steps,
            train_loss=totals.loss_sum / max(1, totals.steps - totals.skipped),
            last_loss=math.nan if totals.last_loss is None else totals.last_loss,
            train_top1=totals.correct / images,
            learning_rate=totals.rate,
            skipped=totals.skipped,
            images_per_s=images / totals.train_s,
            data_wait_s=totals.data_wait_s,
            train_s=totals.train_s,
            eval_s=eval_s,
            accuracy=accuracy,
            ema_accuracy=average,
        )
        for warning in self.watch.after_epoch(report, self.times):
            self.job.reporter.on_warning(warning)
        return report


def _grouped(source: Iterator[Batch], parts: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in source:
        group.append(batch)
        if len(group) == parts:
            yield group
            group = []


def _is_evaluated(config: Config, epoch: int) -> bool:
    return epoch == config.train.epochs or epoch % config.train.eval_every_epochs == 0


def _top1(accuracy: Accuracy | None) -> float | None:
    return None if accuracy is None else accuracy.top1
