"""What a training run shows while it works: a progress bar over the whole run, lines per epoch, TensorBoard events.

Every line also goes to RUN/train.log.

The loop knows only the protocol `RunReporter`; everything that prints is here.
"""

import os
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import open_bar
from convnext_imagenet.base.console import error_line, own_lines
from convnext_imagenet.base.errors import FailedError, Interrupted
from convnext_imagenet.base.wording import plural
from convnext_imagenet.train.run_log import LOG_NAME, RunLog

if TYPE_CHECKING:  # importing these takes seconds, and --help must answer at once
    from convnext_imagenet.train.config.schedule import BatchParts, StepPlan
    from convnext_imagenet.train.run.checkpoint import Position
    from convnext_imagenet.train.run.epoch import EpochReport, FirstStep, StepReport


class Screen:
    """The reporter of a run on a terminal: progress bar and warnings on standard error, epochs on standard output.

    The job's first rank opens `log` when its run begins; without one, nothing is logged. An error that ends the run is
    logged and left to the caller.
    """

    def __init__(self, run: Path, begin: float, log: RunLog | None = None) -> None:
        self._run = run
        self._log = log
        self._begin = begin
        self._start_s = 0.0
        self._bar: Any = None
        self._events: Any = None

    def __enter__(self) -> "Screen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for output in (self._bar, self._events):
            if output is not None:
                output.close()
        if self._log is None or error is None:
            return
        try:
            self._log.add(error_line(error) or "".join(traceback.format_exception(error)))
        except FailedError as failed:  # the error that ends the run says more, and its exit code counts
            click.echo(f"Warning: {failed}", err=True)

    def say(self, text: str, err: bool = False) -> None:
        """Print lines apart from the bar, and log them."""
        with own_lines():
            click.echo(text, err=err)
        if self._log is not None:
            self._log.add(text)

    def end_at_once(self, error: Interrupted) -> None:
        self.say(f"Error: {error}", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.exit_code)  # the main thread is in C++ code, which would not end for minutes

    def on_begin(self) -> None:
        if self._log is not None:
            self._log.open(self._run / LOG_NAME)

    def on_start(self, plan: "StepPlan", parts: "BatchParts", done: "Position") -> None:
        from convnext_imagenet.train.run.events import Events, has_tensorboard

        self._start_s = time.perf_counter() - self._begin

        if has_tensorboard():
            self._events = Events(self._run, done.step)
        images = plan.global_batch_size
        if done.step:
            self.say(f"resuming after epoch {done.epoch} of {plan.epochs}, step {done.step} of {plan.total_steps}")
        epochs, steps = plural(plan.epochs, "epoch"), plural(plan.steps_per_epoch, "step")
        self.say(str(parts))
        self.say(f"{epochs}, {steps} per epoch, {plural(images, 'image')} per step; compiling the first step")
        self._bar = open_bar(plan.total_steps * images, "train", "img", initial=done.step * images)

    def on_first_step(self, first: "FirstStep") -> None:
        how = "loaded from the cache" if first.was_cached else "compiled"
        self.say(f"start {self._start_s:.1f} s, step {how} in {first.compile_s:.1f} s, first step {first.step_s:.2f} s")

    def on_step(self, report: "StepReport") -> None:
        self._bar.set_postfix_str(f"loss {report.loss:.3f}, lr {report.learning_rate:.2e}", refresh=False)
        self._bar.update(report.steps_done * report.images - self._bar.n)  # steps that were left out count as well
        if self._events is not None:
            self._events.on_step(report)

    def on_initial_weights(self, origin: str) -> None:
        self.say(f"initial weights: {origin}")

    def on_warning(self, text: str) -> None:
        self.say(f"Warning: {text}", err=True)

    def on_epoch(self, report: "EpochReport") -> None:
        if self._events is not None:
            self._events.on_epoch(report)
        milliseconds = report.train_s * 1000
        # The format of the MindSpore example's log lines, which scripts search for.
        lines = [
            f"epoch: {report.epoch} step: {report.steps_per_epoch}, loss is {report.last_loss:.6g}",
            f"epoch time: {milliseconds:.3f} ms, per step time: {milliseconds / report.steps_per_epoch:.3f} ms",
        ]
        if (accuracy := report.accuracy) is not None:
            lines.append(
                f"epoch: {report.epoch} Top1-Acc: {accuracy.top1:.5f}, Top{accuracy.guesses}-Acc: {accuracy.top5:.5f}"
            )
        if (average := report.ema_accuracy) is not None:
            lines.append(
                f"epoch: {report.epoch} EMA Top1-Acc: {average.top1:.5f}, Top{average.guesses}-Acc: {average.top5:.5f}"
            )
        if accuracy is not None:
            also = "" if average is None else f", EMA Val-Loss: {average.loss:.6g}"
            lines.append(f"epoch: {report.epoch} Val-Loss: {accuracy.loss:.6g}{also}")
        self.say("\n".join(lines))
