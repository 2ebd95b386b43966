"""Makes one RUN directory, from its first file to `_SUCCESS`: checks, plan, resume, loop, manifest."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mindspore

from convnext_imagenet.base.files import sha256_file, write_atomically
from convnext_imagenet.base.protocol import begin, exclusive, finish, is_finished, join, read_finished
from convnext_imagenet.base.signals import StopSignals
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.launch.ranks.heartbeat import own_heartbeat
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import NETWORK_VERSION
from convnext_imagenet.model.runtime import chip_name, cpu_kernels
from convnext_imagenet.model.transform import TRANSFORM_VERSION
from convnext_imagenet.model.weights import load_weights
from convnext_imagenet.records.reader import Records
from convnext_imagenet.train.augment.device import DRAWS_VERSION
from convnext_imagenet.train.config.config import Config, keys_outside_plan, neutral_values
from convnext_imagenet.train.config.schedule import BatchParts, StepPlan, divide_batch, plan_steps
from convnext_imagenet.train.config.source import to_toml
from convnext_imagenet.train.errors import ConfigError
from convnext_imagenet.train.run.checkpoint import Checkpoints, Position
from convnext_imagenet.train.run.compile_cache import CompileCache, graph_identity
from convnext_imagenet.train.run.context import Interval, RunContext
from convnext_imagenet.train.run.curves import curves_png
from convnext_imagenet.train.run.epoch import Reporter, gap_warnings, read_metrics, truncate_metrics
from convnext_imagenet.train.run.health import augment_warnings, size_warnings
from convnext_imagenet.train.run.initial_weights import GivenWeights, initial_weights
from convnext_imagenet.train.run.loop import run_epochs
from convnext_imagenet.train.step.learner import Learner
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config
from convnext_imagenet.train.step.precision import check_precision
from convnext_imagenet.train.step.step import STEP_VERSION

# Packages whose version can change a number of the run.
_VERSIONED = ("mindspore", "numpy", "pillow", "opencv-python-headless")

_ADVICE = "run the same command again to resume from the saved checkpoint"


@dataclass(frozen=True)
class RunSummary:
    """How a run ended; `was_finished` is true if there was nothing left to do."""

    run: Path
    last: Position
    best: Position
    was_finished: bool


class RunReporter(Reporter, Protocol):
    """A reporter that also learns where the run begins and how much work there is."""

    def on_begin(self) -> None:
        """Called when the RUN directory belongs to this run and is not finished; from then on it may be written."""

    def on_start(self, plan: StepPlan, parts: BatchParts, done: Position) -> None:
        """Called when training begins after the position `done`; `parts` is how devices divide a batch."""

    def on_initial_weights(self, origin: str) -> None:
        """Called when training begins with given weights; `origin` says which tensors come from them."""


@dataclass(frozen=True)
class RunRequest:
    """The request for a run besides its configuration: paths, and settings that change no number.

    `init_from` is a weights file to start from; its SHA-256 is part of the run's plan. `ranks` share the work; only the
    first of them writes.
    """

    records: Path
    run: Path
    workers: int
    interval: Interval = field(default_factory=Interval)
    init_from: Path | None = None
    ranks: Ranks = field(default_factory=Ranks)


def train(config: Config, request: RunRequest, reporter: RunReporter) -> RunSummary:
    """Train `config` on the records into the RUN directory, or resume what an earlier call began there.

    Everything is checked before the first file is written. Raises ConfigError for a configuration that does not fit
    the records, ArtefactError for damaged records or a RUN of another plan, ModelError for damaged initial weights,
    TrainError for weights of another network, a damaged checkpoint or a loss that is not finite, LaunchError for ranks
    that differ, and Interrupted on a stop signal.
    """
    run, ranks = request.run, request.ranks
    records = ranks.first_rank_first(lambda: Records.open(request.records))
    rows = records.split("train").rows
    plan = plan_steps(config, rows, ranks.own.world)
    parts = divide_batch(config, ranks.own.world, rows)
    target = mindspore.get_context("device_target")
    check_precision(config.precision, target, chip_name())
    network = network_config(config.model, len(records.classes))
    given = None if request.init_from is None else GivenWeights(request.init_from, *load_weights(request.init_from))
    fingerprint = run_plan(config, records, request.init_from)
    card = ModelCard(
        config=network,
        classes=tuple((entry.wnid, entry.name) for entry in records.classes),
        transform=evaluation_transform(config.data),
        provenance=fingerprint,
    )
    first = initial_weights(config, card, given)
    is_first = ranks.own.is_first
    check_same_parts(parts, ranks)
    with _held(run, ranks), StopSignals(_ADVICE) as stop:
        plan_id = _begin(run, fingerprint, config, ranks)
        if is_finished(run):
            return _summary(run, was_finished=True)
        reporter.on_begin()
        if is_first:
            write_atomically(run / "config.toml", to_toml(config).encode())
        checkpoints = Checkpoints(run, plan_id, config.train.keep_checkpoints, config.train.keep_best)
        learner = Learner(config, card, first.arrays, ranks.own.world, parts.micro_batches)
        done = _resume(learner, checkpoints, ranks)
        gaps = []
        if is_first:
            truncate_metrics(run / "metrics.jsonl", done.epoch)
            gaps = gap_warnings(run / "metrics.jsonl", done.epoch)
        if first.origin and not done.step:
            reporter.on_initial_weights(first.origin)
        reporter.on_start(plan, parts, done)
        unmeasured = augment_warnings(config.augment, target)
        for warning in (*first.warnings, *size_warnings(config.data), *unmeasured, *gaps):
            reporter.on_warning(warning)
        context = RunContext(
            config=config,
            plan=plan,
            parts=parts,
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
            ranks=ranks,
            heartbeat=own_heartbeat(),
            cache=CompileCache(run, ranks.own.number, graph_identity(plan_id, parts, target, cpu_kernels())),
        )
        run_epochs(context, done)
        if is_first:
            write_atomically(run / "curves.png", curves_png(read_metrics(run / "metrics.jsonl")))
            finish(run, "run", _manifest(plan_id, checkpoints))
        ranks.wait_for_all()
        return _summary(run, was_finished=False)


def _held(run: Path, ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    return exclusive(run) if ranks.own.is_first else contextlib.nullcontext()


def _begin(run: Path, fingerprint: Mapping[str, Any], config: Config, ranks: Ranks) -> str:
    """Declare the run once, on its first rank, and return the id of its plan, which all ranks must share."""
    neutral = {f"config.{key}": value for key, value in neutral_values(config).items()}
    outside = {f"config.{key}" for key in keys_outside_plan(config)}
    if ranks.own.is_first:
        begin(run, "run", fingerprint, neutral, outside)
    ranks.wait_for_all()
    return join(run, "run", fingerprint, neutral, outside)


def run_plan(config: Config, records: Records, init_from: Path | None) -> dict[str, Any]:
    """Return what makes two runs the same run: configuration, records, initial weights, rules and versions.

    It holds every key of the configuration, except those that were declared by `outside_plan`. The plan of an existing
    RUN is compared with it by value. A configuration key that the existing plan lacks counts as the neutral value that
    `added_later` declares; such a RUN resumes under its own plan id. With any other difference the RUN is refused
    (DECISIONS, 2026-11-28).
    """
    values = dataclasses.asdict(config)
    for key in keys_outside_plan(config):
        section, name = key.split(".")
        del values[section][name]
    return {
        "config": values,
        "records": {"manifest_sha256": records.manifest_sha256},
        "rules": {
            "draws": DRAWS_VERSION,
            "network": NETWORK_VERSION,
            "step": STEP_VERSION,
            "transform": TRANSFORM_VERSION,
        },
        "start": None if init_from is None else sha256_file(init_from),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }


def check_same_parts(parts: BatchParts, ranks: Ranks) -> None:
    """Raise ConfigError unless all ranks divide a batch alike; otherwise they would compile different steps.

    Their plans can be equal, because a plan does not hold the division.
    """
    try:
        ranks.check_same("the division of a batch", hashlib.sha256(str(parts).encode()).digest())
    except LaunchError:
        raise ConfigError(
            f"{parts}: not on every rank; start the command with the same CONFIG and --set on every machine"
        ) from None


def _resume(learner: Learner, checkpoints: Checkpoints, ranks: Ranks) -> Position:
    done = checkpoints.last() or Position(epoch=0, step=0)
    ranks.check_same(f"the checkpoint to resume from ({done.unit})", hashlib.sha256(done.unit.encode()).digest())
    if done.step:
        snapshot = checkpoints.load(done)
        learner.restore(snapshot.weights, snapshot.state, snapshot.average)
    return done


def _manifest(plan_id: str, checkpoints: Checkpoints) -> dict[str, Any]:
    pointers = {"best": checkpoints.best(), "last": checkpoints.last()}
    return {
        "plan_id": plan_id,
        **{name: dataclasses.asdict(position) for name, position in pointers.items() if position},
    }


def _summary(run: Path, was_finished: bool) -> RunSummary:
    manifest = read_finished(run, "run")
    last, best = Position(**manifest["last"]), Position(**manifest["best"])
    return RunSummary(run=run, last=last, best=best, was_finished=was_finished)
