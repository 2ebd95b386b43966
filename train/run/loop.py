"""The training loop: epochs of steps, evaluation, metrics and checkpoints. This module must not print.

Epochs count from 1, optimizer steps from 0. A checkpoint holds everything that a later step depends on, so a run that
stops after any step and resumes has the same numbers as one that never stopped.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator

import numpy as np

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.files import write_atomically
from convnext_imagenet.base.signals import answered_by_thread
from convnext_imagenet.model.runtime import is_deterministic
from convnext_imagenet.model.weight_check import not_finite
from convnext_imagenet.serve.evaluate import Accuracy, EvaluationSettings, evaluate
from convnext_imagenet.train.config.schedule import ema_decay, learning_rate
from convnext_imagenet.train.config.sections import TrainSection
from convnext_imagenet.train.data.order import step_sample_ids
from convnext_imagenet.train.data.pipeline import Batch, StageTimes, batches
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.run.checkpoint import Position
from convnext_imagenet.train.run.context import RunContext
from convnext_imagenet.train.run.divergence import Divergence, DivergenceWatch, explain
from convnext_imagenet.train.run.epoch import (
    EpochReport,
    EpochSums,
    FirstStep,
    StepReport,
    append_metrics,
    metrics_line,
)
from convnext_imagenet.train.run.health import RunHealth
from convnext_imagenet.train.run.step_pipe import FinishedStep, StepPipe


def run_epochs(context: RunContext, done: Position) -> None:
    """Train from the position `done` to the end; each epoch ends with a metrics line and a checkpoint.

    Raises Interrupted on a stop signal, after saving a checkpoint, and TrainError when the run has diverged and may not
    go back to its last checkpoint (again).
    """
    rollbacks, watch = done.rollbacks, DivergenceWatch(context.config.precision)
    health = RunHealth(context.config.schedule, context.card.config.num_classes, context.plan)
    sums = EpochSums() if done.within is None else EpochSums.from_json(done.within)
    section, best, last = context.config.train, context.checkpoints.best(), done
    for epoch in range(done.epoch + 1, section.epochs + 1):
        if is_out_of_patience(section, last, best):
            return
        running = _Epoch(context, epoch, sums, health, watch, rollbacks)
        report = running.run()
        rollbacks = running.rollbacks
        # The line comes before the checkpoint: resuming removes a line too many, but cannot write a missing one.
        if context.ranks.own.is_first:
            append_metrics(context.metrics_path, metrics_line(report))
        last = _position(report, rollbacks)
        best = last if last.is_better_than(best, section.best_by) else best
        context.save(last)
        context.reporter.on_epoch(report)
        sums = EpochSums()


def is_out_of_patience(section: TrainSection, last: Position, best: Position | None) -> bool:
    """Return whether a run ends at `last`, because no evaluation for `patience_epochs` was better than `best`.

    A function of saved positions only, so a resumed run ends at the same epoch; all ranks have the same positions.
    """
    if not section.patience_epochs or best is None or last.within is not None or last.score(section.best_by) is None:
        return False
    return last.epoch - best.epoch >= section.patience_epochs


class _Epoch:
    """One epoch, from its beginning or from the step where `sums` ends.

    A rank that wants to stop or save asks all ranks in its next step. They read the answer with the step's outcome and
    act alike; a rank that acted by itself would leave the others waiting in their all-reduce (DECISIONS, 2026-11-25).

    A step that diverges is never saved. If rollbacks are allowed, the weights of the last checkpoint continue with the
    step after it; all steps between are left out (DECISIONS, 2026-11-29).
    """

    def __init__(
        self,
        context: RunContext,
        epoch: int,
        sums: EpochSums,
        health: RunHealth,
        watch: DivergenceWatch,
        rollbacks: int,
    ) -> None:
        self.context = context
        self.epoch = epoch
        self.sums = sums
        self.health = health
        self.rollbacks = rollbacks
        self.watch = watch
        self.first_step = (epoch - 1) * context.plan.steps_per_epoch
        self.pipe = StepPipe(
            context.learner, context.cache, self._on_first_step, self._stop_if_signalled, self._while_compiling
        )
        self.times = StageTimes()
        self._saved_at = self._timed_from = time.perf_counter()
        self._waited_s = 0.0

    def run(self) -> EpochReport:
        """Run the remaining steps and, if it is due, the evaluation."""
        try:
            self._train()
            begin = time.perf_counter()
            is_due = _is_evaluated(self.context.config.train, self.epoch)
            accuracy, average = self._evaluate() if is_due else (None, None)
        except Interrupted:
            self._save_before_stop()
            raise self.context.stop.interruption() from None
        return self._report(accuracy, average, time.perf_counter() - begin)

    def _train(self) -> None:
        """Run the remaining steps. Raises TrainError for a divergence that ends the run."""
        while True:
            try:
                self._run_steps()
                self._check_epoch()
                return
            except Divergence as divergence:
                self._roll_back(divergence)

    def _run_steps(self) -> None:
        config, interval, stop = self.context.config, self.context.interval, self.context.stop
        for group in self._timed(_grouped(self._batches(), self.context.parts.micro_batches)):
            self._stop_if_signalled()
            step = self.first_step + self.sums.steps + self.pipe.in_flight
            rate = learning_rate(step, self.context.plan_at(step), config.schedule)
            decay = ema_decay(step, config.ema)
            # Before the step starts, so that its all-reduce carries the question to all ranks.
            ask_save = interval.is_overdue(self._saved_at, time.perf_counter())
            finished = self._add_up(self.pipe.start(group, rate, decay, stop.received, ask_save))
            self._stop_if_asked(finished)
            if interval.is_due(step + 1) or (finished is not None and finished.outcome.asked_save):
                self._stop_if_asked(self._save())
        self._stop_if_asked(self._add_up(self.pipe.drain()))
        self._add_times()

    def _batches(self) -> Iterator[Batch]:
        context = self.context
        return batches(
            context.train_split, context.config, context.plan, self.epoch, context.workers, self.sums.steps,
            context.learner.drop_path_rates, context.ranks.own, self.times, self._stop_if_signalled,
        )  # fmt: skip

    def _stop_if_signalled(self) -> None:
        """Raise Interrupted on a stop signal to a single rank; several ranks agree on it through their steps."""
        if self.context.is_single_rank:
            self.context.stop.check()

    def _while_compiling(self) -> contextlib.AbstractContextManager[None]:
        """Answer a stop signal to a single rank at once: before the first step of a process nothing is to be saved."""
        context = self.context
        if not context.is_single_rank:
            return contextlib.nullcontext()
        return answered_by_thread(lambda: context.reporter.end_at_once(context.stop.interruption()))

    def _stop_if_asked(self, finished: FinishedStep | None) -> None:
        """Raise Interrupted if any rank had asked to stop when the step began."""
        if finished is not None and finished.outcome.asked_stop:
            raise self.context.stop.interruption()

    def _timed(self, source: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """Yield from `source` and add up how long the loop waited for it."""
        while True:
            begin = time.perf_counter()
            group = next(source, None)
            self._waited_s += time.perf_counter() - begin
            if group is None:
                return
            yield group

    def _add_up(self, finished: FinishedStep | None) -> FinishedStep | None:
        """Add a finished step to the sums, report it and return it. Raises Divergence, and adds nothing, if it is."""
        if finished is None:
            return None
        outcome = finished.outcome
        self.context.heartbeat.beat("training", steps=1)
        steps = self.sums.steps + 1
        if reason := self.watch.reason(outcome, self.first_step + steps):
            ids = step_sample_ids(self.context.train_split, self.context.config, self.epoch, self.sums.steps)
            raise Divergence(self.epoch, steps, reason, ids, self.watch.last)
        self.sums = self.sums.with_step(outcome, finished.rate)
        report = StepReport(
            epoch=self.epoch, step=steps, steps_done=self.first_step + steps,
            images=self.context.plan.global_batch_size, loss=outcome.loss, learning_rate=finished.rate,
            gradient_norm=outcome.gradient_norm, taken=outcome.taken, loss_scale=outcome.loss_scale,
        )  # fmt: skip
        self.context.reporter.on_step(report)
        for warning in self.health.after_step(report):
            self.context.reporter.on_warning(warning)
        return finished

    def _on_first_step(self, first: FirstStep) -> None:
        self.sums = self.sums.with_first_step(first)
        self._timed_from += first.compile_s  # as if this part of the epoch had begun so much later
        self.context.reporter.on_first_step(first)

    def _save(self) -> FinishedStep | None:
        """Save a checkpoint within the epoch, unless no step has finished; return the step that was in flight."""
        finished = self._add_up(self.pipe.drain())  # a checkpoint must not miss the step in flight
        self._add_times()
        self._saved_at = time.perf_counter()
        if self.sums.steps:
            self._check_weights()
            step = self.first_step + self.sums.steps
            self.context.save(Position(self.epoch - 1, step, within=self.sums.to_json(), rollbacks=self.rollbacks))
        return finished

    def _save_before_stop(self) -> None:
        try:
            self._save()
        except Divergence as divergence:
            if not self._can_roll_back():
                self._roll_back(divergence)
            # Otherwise the resumed run meets the same divergence again, and then goes back.

    def _check_weights(self) -> None:
        """Raise Divergence for weights that are not finite: the last step made them from finite gradients."""
        learner = self.context.learner
        if name := not_finite(learner.weights()) or not_finite(learner.average()):
            reason = f"{name} has values that are not finite, after gradients that were"
            raise Divergence(self.epoch, self.sums.steps, reason, last=self.watch.last)

    def _check_epoch(self) -> None:
        self._check_weights()
        has_scale = self.context.config.precision.loss_scale != "none"  # without one no step is skipped
        if has_scale and self.sums.skipped and not self.sums.taken:
            reason = f"each of the {self.sums.skipped} steps of the epoch overflowed and was skipped"
            raise Divergence(self.epoch, self.sums.steps, reason, last=self.watch.last)

    def _can_roll_back(self) -> bool:
        return self.rollbacks < self.context.rollback_limit

    def _roll_back(self, divergence: Divergence) -> None:
        """Continue after the diverged step with the last checkpoint's weights. Raises TrainError if that may not be."""
        context = self.context
        self.pipe.drain()  # the step in flight started from the diverged weights
        saved = context.checkpoints.last()
        if context.ranks.own.is_first:
            write_atomically(context.metrics_path.with_name("divergence.json"), _details(divergence))
        is_between = saved is not None and saved.step < self.first_step + divergence.step
        if saved is None or not is_between or not self._can_roll_back():
            raise TrainError(explain(divergence, context.config, None if saved is None else saved.unit, self.rollbacks))
        snapshot = context.checkpoints.load(saved)
        context.learner.restore(snapshot.weights, snapshot.state, snapshot.average)
        sums = EpochSums() if saved.within is None else EpochSums.from_json(saved.within)
        self.sums = sums.without_steps_until(divergence.step, self.first_step)
        self.rollbacks += 1
        self.watch.restart()
        first, last = self.sums.rolled_back[-1]
        steps = f"step {first}" if first == last else f"steps {first} to {last}"
        context.reporter.on_warning(
            f"{divergence}; continuing with the weights of {saved.unit}, without {steps} "
            f"(rollback {self.rollbacks} of {context.rollback_limit})"
        )
        self._save()  # so that a resumed run does not repeat the steps that are left out

    def _add_times(self) -> None:
        now = time.perf_counter()
        self.sums = self.sums.with_times(self._waited_s, now - self._timed_from)
        self._timed_from, self._waited_s = now, 0.0

    def _evaluate(self) -> tuple[Accuracy, Accuracy | None]:
        learner = self.context.learner
        average = learner.average()
        return self._accuracy(learner.weights()), self._accuracy(average) if average else None

    def _accuracy(self, weights: dict[str, np.ndarray]) -> Accuracy:
        self.context.learner.show_to_evaluation(weights)
        return evaluate(
            self.context.learner.classifier,
            self.context.card.transform,
            self.context.val_split,
            self.context.config.data.eval_batch_size,
            self.context.workers,
            EvaluationSettings(
                ranks=self.context.ranks,
                on_progress=lambda rows: self.context.heartbeat.beat("evaluating"),
                is_stopped=lambda: self.context.stop.received,
            ),
        )

    def _report(self, accuracy: Accuracy | None, average: Accuracy | None, eval_s: float) -> EpochReport:
        sums = self.sums
        images = (sums.steps - sums.left_out) * self.context.plan.global_batch_size
        report = EpochReport(
            epoch=self.epoch,
            steps_per_epoch=sums.steps,
            step=self.first_step + sums.steps,
            train_loss=sums.loss_sum / sums.taken if sums.taken else None,
            last_loss=math.nan if sums.last_loss is None else sums.last_loss,
            train_top1=sums.correct / images if images else None,
            learning_rate=sums.rate,
            skipped=sums.skipped,
            images_per_s=images / sums.train_s,
            data_wait_s=sums.data_wait_s,
            train_s=sums.train_s,
            eval_s=eval_s,
            accuracy=accuracy,
            ema_accuracy=average,
            is_deterministic=is_deterministic(),
            rolled_back=sums.rolled_back,
            is_mixed=self.context.config.mix.is_on,
            label_smoothing=self.context.config.mix.label_smoothing,
            has_class_weights=self.context.config.data.class_weight_power > 0,
            compile_s=sums.compile_s,
            first_step_s=sums.first_step_s,
        )
        for warning in self.health.after_epoch(report, self.times):
            self.context.reporter.on_warning(warning)
        return report


def _details(divergence: Divergence) -> bytes:
    last = divergence.last
    details = {
        "epoch": divergence.epoch,
        "step": divergence.step,
        "reason": divergence.reason,
        "sample_ids": divergence.sample_ids,
        "last_finite": last and {"step": last.step, "loss": last.loss, "gradient_norm": last.gradient_norm},
    }
    return json.dumps(details).encode() + b"\n"


def _grouped(source: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in source:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []


def _is_evaluated(section: TrainSection, epoch: int) -> bool:
    return epoch == section.epochs or epoch % section.eval_every_epochs == 0


def _position(report: EpochReport, rollbacks: int) -> Position:
    own, average = report.accuracy, report.ema_accuracy
    return Position(
        report.epoch,
        report.step,
        None if own is None else own.top1,
        None if average is None else average.top1,
        rollbacks=rollbacks,
        loss=_finite_loss(own),
        ema_loss=_finite_loss(average),
    )


def _finite_loss(accuracy: Accuracy | None) -> float | None:
    return accuracy.loss if accuracy is not None and math.isfinite(accuracy.loss) else None
