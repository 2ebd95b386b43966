"""One RUN directory from its first file to `_SUCCESS`: checks, fingerprint, resume, loop, manifest."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from convnext_imagenet.model.weights import ModelCard
from convnext_imagenet.records.artefact import begin, exclusive, finish, is_finished, read_finished
from convnext_imagenet.records.files import write_atomically
from convnext_imagenet.records.reading import Records
from convnext_imagenet.train.checkpoint import Checkpoints, Position
from convnext_imagenet.train.config import Config
from convnext_imagenet.train.config_source import to_toml
from convnext_imagenet.train.interrupts import StopSignals
from convnext_imagenet.train.learner import Learner, evaluation_transform, network_config
from convnext_imagenet.train.loop import Job, Reporter, run_epochs
from convnext_imagenet.train.metrics import truncate_metrics
from convnext_imagenet.train.plan import StepPlan, plan_steps

# What changes a number when its version changes.
_VERSIONED = ("mindspore", "numpy", "pillow", "opencv-python-headless")


@dataclass(frozen=True)
class RunSummary:
    """How a run ended; `was_finished` says that there was nothing left to do."""

    run: Path
    last: Position
    best: Position
    was_finished: bool


class RunReporter(Reporter, Protocol):
    """A reporter that also learns how much work lies ahead."""

    def on_start(self, plan: StepPlan, done: Position) -> None:
        """Training begins after the position `done`."""


def train(config: Config, records_root: Path, run: Path, workers: int, reporter: RunReporter) -> RunSummary:
    """Train `config` on the records into the directory `run`, or finish what an earlier call began there.

    Everything is checked before the first file is written. Raises ConfigError and RecordsError for what does not
    fit, TrainError for a damaged checkpoint or a loss that is not finite, Interrupted on a stop signal.
    """
    records = Records.open(records_root)
    plan = plan_steps(config, records.split("train").rows)
    card = ModelCard(
        config=network_config(config.model, len(records.classes)),
        classes=tuple((entry.wnid, entry.name) for entry in records.classes),
        transform=evaluation_transform(config.data),
        provenance={"records": records.manifest.plan_id, "config": dataclasses.asdict(config)},
    )
    val_split = records.split("val")
    with exclusive(run), StopSignals() as stop:
        plan_id = begin(run, "run", run_plan(config, records))
        if is_finished(run):
            return _summary(run, read_finished(run, "run"), was_finished=True)
        write_atomically(run / "config.toml", to_toml(config).encode())
        checkpoints = Checkpoints(run, plan_id, config.train.keep_checkpoints)
        learner = Learner(config, card)
        done = _resume(learner, checkpoints)
        truncate_metrics(run / "metrics.jsonl", done.epoch)
        reporter.on_start(plan, done)
        job = Job(
            config=config,
            plan=plan,
            card=card,
            learner=learner,
            train_split=records.split("train"),
            val_split=val_split,
            checkpoints=checkpoints,
            metrics_path=run / "metrics.jsonl",
            workers=workers,
            reporter=reporter,
            stop=stop,
        )
        run_epochs(job, done.epoch)
        manifest = _manifest(plan_id, checkpoints)
        finish(run, "run", manifest)
        return _summary(run, manifest, was_finished=False)


def run_plan(config: Config, records: Records) -> dict[str, Any]:
    """Return what makes two runs the same run: configuration, records, and versions that change numbers."""
    return {
        "config": dataclasses.asdict(config),
        "records": records.manifest.plan_id,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }


def _resume(learner: Learner, checkpoints: Checkpoints) -> Position:
    done = checkpoints.last()
    if done is None:
        return Position(epoch=0, step=0, top1=None)
    learner.restore(*checkpoints.load(done))
    return done


def _manifest(plan_id: str, checkpoints: Checkpoints) -> dict[str, Any]:
    pointers = {"best": checkpoints.best(), "last": checkpoints.last()}
    return {"plan_id": plan_id, **{name: dataclasses.asdict(place) for name, place in pointers.items() if place}}


def _summary(run: Path, manifest: Mapping[str, Any], was_finished: bool) -> RunSummary:
    last, best = Position(**manifest["last"]), Position(**manifest["best"])
    return RunSummary(run=run, last=last, best=best, was_finished=was_finished)
