"""One RUN directory from its first file to `_SUCCESS`: checks, fingerprint, resume, loop, manifest."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mindspore

from convnext_imagenet.model.matching import check_shapes
from convnext_imagenet.model.weights import ModelCard, load_weights
from convnext_imagenet.records.artefact import begin, exclusive, finish, is_finished, read_finished
from convnext_imagenet.records.files import sha256_file, write_atomically
from convnext_imagenet.records.reading import Records
from convnext_imagenet.train.checkpoint import Checkpoints, Position
from convnext_imagenet.train.config import Config
from convnext_imagenet.train.config_source import to_toml
from convnext_imagenet.train.curves import curves_png
from convnext_imagenet.train.interrupts import StopSignals
from convnext_imagenet.train.learner import Learner
from convnext_imagenet.train.loop import Interval, Job, run_epochs
from convnext_imagenet.train.metrics import read_metrics, truncate_metrics
from convnext_imagenet.train.networks import evaluation_transform, initial_weights, network_config
from convnext_imagenet.train.plan import StepPlan, plan_steps
from convnext_imagenet.train.precision import check_precision
from convnext_imagenet.train.reports import Reporter
from convnext_imagenet.train.watch import size_warnings

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

    def on_new_head(self, given: int, classes: int) -> None:
        """The weights given to start from know `given` classes; the head is new."""


@dataclass(frozen=True)
class Request:
    """What a run is told besides its configuration: where things are, and what changes no number.

    `start` is a weights file to start from; its SHA-256 is part of the run's fingerprint.
    """

    records: Path
    run: Path
    workers: int
    interval: Interval = field(default_factory=Interval)
    start: Path | None = None


def train(config: Config, request: Request, reporter: RunReporter) -> RunSummary:
    """Train `config` on the records into the RUN directory, or finish what an earlier call began there.

    Everything is checked before the first file is written. Raises ConfigError and RecordsError for what does not
    fit, ModelError for weights to start from that do not, TrainError for a damaged checkpoint or a loss that is not
    finite, Interrupted on a stop signal.
    """
    run, records = request.run, Records.open(request.records)
    plan = plan_steps(config, records.split("train").rows)
    check_precision(config.precision, mindspore.get_context("device_target"))
    network = network_config(config.model, len(records.classes))
    given = None if request.start is None else load_weights(request.start)[0]
    initial, is_new_head = initial_weights(config, network, given)
    check_shapes(initial, network, "the weights to start from do not fit the network")
    fingerprint = run_plan(config, records, request.start)
    card = ModelCard(
        config=network,
        classes=tuple((entry.wnid, entry.name) for entry in records.classes),
        transform=evaluation_transform(config.data),
        provenance=fingerprint,
    )
    with exclusive(run), StopSignals() as stop:
        plan_id = begin(run, "run", fingerprint)
        if is_finished(run):
            return _summary(run, read_finished(run, "run"), was_finished=True)
        write_atomically(run / "config.toml", to_toml(config).encode())
        if given is not None and is_new_head:
            reporter.on_new_head(given["head.bias"].size, network.num_classes)
        checkpoints = Checkpoints(run, plan_id, config.train.keep_checkpoints, config.train.keep_best)
        learner = Learner(config, card, initial)
        done = _resume(learner, checkpoints)
        truncate_metrics(run / "metrics.jsonl", done.epoch)
        reporter.on_start(plan, done)
        for warning in size_warnings(config):
            reporter.on_warning(warning)
        job = Job(
            config=config,
            plan=plan,
            card=card,
            learner=learner,
            train_split=records.split("train"),
            val_split=records.split("val"),
            checkpoints=checkpoints,
            metrics_path=run / "metrics.jsonl",
            workers=request.workers,
            interval=request.interval,
            reporter=reporter,
            stop=stop,
        )
        run_epochs(job, done)
        write_atomically(run / "curves.png", curves_png(read_metrics(run / "metrics.jsonl")))
        manifest = _manifest(plan_id, checkpoints)
        finish(run, "run", manifest)
        return _summary(run, manifest, was_finished=False)


def run_plan(config: Config, records: Records, start: Path | None) -> dict[str, Any]:
    """Return what makes two runs the same run: configuration, records, first weights, versions that change numbers."""
    return {
        "config": dataclasses.asdict(config),
        "records": records.manifest.plan_id,
        "start": None if start is None else sha256_file(start),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }


def _resume(learner: Learner, checkpoints: Checkpoints) -> Position:
    done = checkpoints.last()
    if done is None:
        return Position(epoch=0, step=0)
    snapshot = checkpoints.load(done)
    learner.restore(snapshot.weights, snapshot.state, snapshot.average)
    return done


def _manifest(plan_id: str, checkpoints: Checkpoints) -> dict[str, Any]:
    pointers = {"best": checkpoints.best(), "last": checkpoints.last()}
    return {"plan_id": plan_id, **{name: dataclasses.asdict(place) for name, place in pointers.items() if place}}


def _summary(run: Path, manifest: Mapping[str, Any], was_finished: bool) -> RunSummary:
    last, best = Position(**manifest["last"]), Position(**manifest["best"])
    return RunSummary(run=run, last=last, best=best, was_finished=was_finished)
