"""What a run would do on its records: steps, memory, checkpoints on disk, and time, if this machine can measure it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.base.wording import duration, plural
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.weights import load_weights
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.reader import Records, Split
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import divide_batch, plan_steps
from convnext_imagenet.train.data.order import training_rows
from convnext_imagenet.train.run.advice import checkpoint_bytes, step_bytes
from convnext_imagenet.train.run.initial_weights import GivenWeights, initial_weights
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config
from convnext_imagenet.train.suggest.choose import Speed
from convnext_imagenet.train.suggest.measure import measure


@dataclass(frozen=True)
class RunForecast:
    """What a run would do; the times are None unless steps were measured.

    `step_memory_bytes` is a lower bound for the rows that a device computes at a time. `disk_bytes` is the most that
    the checkpoints take at once.
    """

    train_rows: int
    val_rows: int
    epochs: int
    steps: int
    evaluations: int
    micro_batches: int
    step_memory_bytes: int
    checkpoint_bytes: int
    disk_bytes: int
    start_s: float | None = None
    step_s: float | None = None
    seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values."""
        return dataclasses.asdict(self)


def forecast_run(config: Config, records: Path, devices: int) -> RunForecast:
    """Return what a run on finished records would do, without times. Raises ConfigError and ArtefactError."""
    manifest = Manifest.from_json(read_finished(records, "records"))
    rows = len(training_rows(Split("train", manifest.splits["train"], records / "train"), config))
    section = config.train
    network = network_config(config.model, len(manifest.classes))
    plan, parts = plan_steps(config, rows, devices), divide_batch(config, devices, rows)
    one = checkpoint_bytes(config, network)
    kept = section.keep_checkpoints + section.keep_best if section.keep_checkpoints else section.epochs
    return RunForecast(
        train_rows=rows,
        val_rows=manifest.splits["val"].rows,
        epochs=section.epochs,
        steps=plan.total_steps,
        evaluations=-(-section.epochs // section.eval_every_epochs),
        micro_batches=parts.micro_batches,
        step_memory_bytes=step_bytes(config, network, parts.rows),
        checkpoint_bytes=one,
        disk_bytes=one * min(kept + 1, section.epochs),  # a new one is written before an old one goes
    )


def with_times(
    found: RunForecast, config: Config, records: Path, init_from: Path | None, workers: int, start_s: float
) -> RunForecast:
    """Return the forecast with the time on this process's device, from a few steps that are taken and thrown away."""
    opened = Records.open(records)
    classes = tuple((entry.wnid, entry.name) for entry in opened.classes)
    card = ModelCard(network_config(config.model, len(classes)), classes, evaluation_transform(config.data))
    given = None if init_from is None else GivenWeights(init_from, *load_weights(init_from))
    speed = measure(config, card, initial_weights(config, card, given).arrays, opened, workers, start_s)
    return add_times(found, speed)


def add_times(found: RunForecast, speed: Speed) -> RunForecast:
    """Return the forecast with the times that follow from the speed of a machine."""
    start_s = speed.start_s + speed.compile_s
    evaluated_s = found.evaluations * found.val_rows * speed.eval_row_s
    seconds = start_s + found.steps * speed.step_s + evaluated_s
    return dataclasses.replace(found, start_s=start_s, step_s=speed.step_s, seconds=seconds)


def forecast_lines(found: RunForecast) -> list[str]:
    """Return a forecast as lines of text."""
    lines = [
        f"{found.train_rows:,} training rows: {plural(found.epochs, 'epoch')}, {plural(found.steps, 'step')}, "
        f"{plural(found.evaluations, 'evaluation')} of {found.val_rows:,} val rows",
        f"checkpoints: {found.checkpoint_bytes / 2**20:,.1f} MiB each, at most {found.disk_bytes / 2**20:,.1f} MiB on "
        f"disk; a step needs at least {found.step_memory_bytes / 2**20:,.0f} MiB of memory",
    ]
    if found.seconds is not None and found.step_s is not None:
        lines.append(
            f"time on this machine: about {duration(found.seconds)}; {found.start_s:.0f} s to start and "
            f"compile, then {1000 * found.step_s:,.0f} ms a step"
        )
    return lines
