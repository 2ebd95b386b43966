"""The sums of an epoch, the reports of a step and of an epoch, and the file metrics.jsonl.

This module must not know MindSpore's networks or the loop.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.files import naming, write_atomically

if TYPE_CHECKING:  # importing these takes seconds, and `convnext-train plot` needs neither
    from convnext_imagenet.serve.evaluate import Accuracy
    from convnext_imagenet.train.step.learner import StepOutcome


@dataclass(frozen=True)
class EpochSums:
    """The sums of an epoch after `steps` optimizer steps; times in seconds.

    `rolled_back` holds the first and the last step (counted from 1 within the run) of each range that was left out
    after a divergence; the sums do not contain these steps, but `steps` counts them.

    `train_s` has no compilation in it: `compile_s` is the time that the processes of these steps took to compile or
    load their first one. `first_step_s`, a part of `train_s`, is the time that they took to run it.
    """

    steps: int = 0
    loss_sum: float = 0.0
    last_loss: float | None = None
    correct: float = 0.0
    skipped: int = 0
    rate: float = 0.0
    data_wait_s: float = 0.0
    train_s: float = 0.0
    compile_s: float = 0.0  # checkpoints of version 0.2.0 have neither this nor the next
    first_step_s: float = 0.0
    rolled_back: tuple[tuple[int, int], ...] = ()

    @property
    def left_out(self) -> int:
        """Return how many of the steps were left out after a divergence."""
        return sum(last - first + 1 for first, last in self.rolled_back)

    @property
    def taken(self) -> int:
        """Return how many of the steps changed the weights."""
        return self.steps - self.skipped - self.left_out

    def with_step(self, outcome: "StepOutcome", rate: float) -> "EpochSums":
        """Return the sums with one more step; a skipped step's loss may be infinite and is left out of the sum."""
        return dataclasses.replace(
            self,
            steps=self.steps + 1,
            loss_sum=self.loss_sum + (outcome.loss if math.isfinite(outcome.loss) else 0.0),
            last_loss=outcome.loss if math.isfinite(outcome.loss) else self.last_loss,
            correct=self.correct + outcome.correct,
            skipped=self.skipped + (not outcome.taken),
            rate=rate,
        )

    def with_times(self, data_wait_s: float, train_s: float) -> "EpochSums":
        """Return the sums with these seconds added."""
        return dataclasses.replace(self, data_wait_s=self.data_wait_s + data_wait_s, train_s=self.train_s + train_s)

    def without_steps_until(self, step: int, first_step: int) -> "EpochSums":
        """Return the sums with all further steps until `step` left out; `first_step` steps came before the epoch."""
        left_out = first_step + self.steps + 1, first_step + step
        return dataclasses.replace(self, steps=step, rolled_back=(*self.rolled_back, left_out))

    def with_first_step(self, first: "FirstStep") -> "EpochSums":
        """Return the sums with the times of a process's first step; its caller keeps `compile_s` out of `train_s`."""
        return dataclasses.replace(
            self,
            compile_s=self.compile_s + first.compile_s,
            first_step_s=self.first_step_s + first.step_s,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the sums as JSON values; every float survives the round trip exactly."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "EpochSums":
        """Return the sums that `to_json` wrote."""
        ranges = tuple((first, last) for first, last in values.get("rolled_back", ()))
        return EpochSums(**{**values, "rolled_back": ranges})


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
    """One finished epoch. `train_loss` and `train_top1` are means over its steps, None if all were left out.

    `last_loss` is the last step's. `train_top1` is the share of rows whose best class is their own label, even if they
    were mixed with another row. `is_mixed`: mixup or cutmix was on. `label_smoothing` and `has_class_weights` say what
    else makes `train_loss` another quantity than a loss on val. `skipped` counts steps that overflowed;
    `rolled_back` holds the ranges of steps (counted from 1 within the run) that were left out after a divergence.
    `data_wait_s` is the time that the loop waited for batches, `train_s` and `eval_s` are the times of training and
    evaluation. `compile_s` is not part of `train_s`, `first_step_s` is; both are 0 unless a process began in it.
    `is_deterministic`: the process that finished the epoch was.
    """

    epoch: int
    steps_per_epoch: int
    step: int
    train_loss: float | None
    last_loss: float
    train_top1: float | None
    learning_rate: float
    skipped: int
    images_per_s: float
    data_wait_s: float
    train_s: float
    eval_s: float
    accuracy: "Accuracy | None"
    ema_accuracy: "Accuracy | None"
    is_deterministic: bool = True
    rolled_back: tuple[tuple[int, int], ...] = ()
    is_mixed: bool = False
    label_smoothing: float = 0.0
    has_class_weights: bool = False
    compile_s: float = 0.0
    first_step_s: float = 0.0


@dataclass(frozen=True)
class FirstStep:
    """Seconds that this process took to compile its first step (`was_cached`: to load it) and to run it."""

    compile_s: float
    step_s: float
    was_cached: bool


class Reporter(Protocol):
    """What the loop reports to its caller while it runs."""

    def on_first_step(self, first: FirstStep) -> None:
        """Called when the first step of this process has finished."""

    def on_step(self, report: StepReport) -> None:
        """Called when a step has finished."""

    def on_epoch(self, report: EpochReport) -> None:
        """Called when an epoch has finished and is saved."""

    def on_warning(self, text: str) -> None:
        """Called when the numbers of the run deserve a warning."""

    def end_at_once(self, error: Interrupted) -> None:
        """Called by another thread at a stop signal while a step compiles: tell it and end the process, if wanted."""


def metrics_line(report: EpochReport) -> dict[str, Any]:
    """Return the epoch as a line of metrics.jsonl; the val_ values are null if it was not evaluated.

    A loss that is not finite is null, too, because JSON has no such number.
    """
    accuracy, average = report.accuracy, report.ema_accuracy
    return {
        "epoch": report.epoch,
        "step": report.step,
        "train_loss": report.train_loss,
        "train_top1": report.train_top1,
        "train_is_mixed": report.is_mixed,
        "train_label_smoothing": report.label_smoothing,
        "train_has_class_weights": report.has_class_weights,
        "learning_rate": report.learning_rate,
        "skipped_steps": report.skipped,
        "rolled_back": report.rolled_back,
        "val_loss": accuracy and _finite(accuracy.loss),
        "val_top1": accuracy and accuracy.top1,
        "val_top5": accuracy and accuracy.top5,
        "val_rows": accuracy and accuracy.rows,
        "val_top1_correct": accuracy and accuracy.top1_correct,
        "val_top5_correct": accuracy and accuracy.top5_correct,
        "ema_val_loss": average and _finite(average.loss),
        "ema_val_top1": average and average.top1,
        "ema_val_top5": average and average.top5,
        "images_per_s": round(report.images_per_s, 2),
        "data_wait_s": round(report.data_wait_s, 3),
        "train_s": round(report.train_s, 3),
        "compile_s": round(report.compile_s, 3),
        "first_step_s": round(report.first_step_s, 3),
        "eval_s": round(report.eval_s, 3),
        "deterministic": report.is_deterministic,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def append_metrics(path: Path, line: Mapping[str, Any]) -> None:
    """Append one epoch's line and flush it to disk."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines in order, up to one that is damaged; an empty list when there is no file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = _parsed(text)
        if line is None:
            break  # a crash cut this line short; later lines do not count either
        lines.append(line)
    return lines


def unread_lines(path: Path, read: int) -> int:
    """Return how many lines are left out after the `read` ones of `read_metrics`: a damaged one and what follows it."""
    return len(path.read_text(encoding="utf-8", errors="replace").splitlines()) - read


def _parsed(text: str) -> dict[str, Any] | None:
    """Return a line as `metrics_line` makes it: a whole epoch from 1, and numbers where it has names of numbers."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_line = isinstance(line, dict) and type(line.get("epoch")) is int and line["epoch"] >= 1
    return line if is_line and not any(isinstance(value, str | dict) for value in line.values()) else None


def truncate_metrics(path: Path, last_epoch: int) -> None:
    """Drop the lines of epochs after `last_epoch`; a resumed run writes them again."""
    kept = [line for line in read_metrics(path) if line["epoch"] <= last_epoch]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def gap_warnings(path: Path, last_epoch: int) -> list[str]:
    """Return a warning if the lines of some epochs up to `last_epoch` are missing, because they cannot come back."""
    missing = sorted(set(range(1, last_epoch + 1)) - {line["epoch"] for line in read_metrics(path)})
    if not missing:
        return []
    some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    return [
        f"{path}: the lines of {len(missing)} of {last_epoch} finished epochs are missing ({some}), so curves.png will "
        f"have a gap; the weights are complete. To have the lines, restore the file from a copy and start again"
    ]
