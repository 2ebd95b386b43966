"""Makes one RUN directory, from its first file to `_SUCCESS`: checks, plan, resume, loop, manifest."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mindspore
import numpy as np

from convnext_imagenet.base.files import write_atomically
from convnext_imagenet.base.protocol import exclusive, finish, is_finished, read_finished, reopen
from convnext_imagenet.base.signals import StopSignals
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.launch.ranks.heartbeat import own_heartbeat
from convnext_imagenet.model.card import ModelCard, inherited_licence
from convnext_imagenet.model.runtime import chip_name, cpu_kernels
from convnext_imagenet.model.weights import load_weights
from convnext_imagenet.records.audit.leaks import leak_line
from convnext_imagenet.records.reader import Records, Split
from convnext_imagenet.train.config.config import Config, dotted_values
from convnext_imagenet.train.config.fit import RunFacts, check_fit
from convnext_imagenet.train.config.schedule import BatchParts, StepPlan, divide_batch, plan_steps
from convnext_imagenet.train.config.sections import TrainSection
from convnext_imagenet.train.config.source import load_config, to_toml
from convnext_imagenet.train.data.order import training_rows
from convnext_imagenet.train.errors import ConfigError, TrainError
from convnext_imagenet.train.machine import available_memory_mib, read_disk
from convnext_imagenet.train.run.advice import Room, room_warnings, start_warnings
from convnext_imagenet.train.run.checkpoint import BestBy, Checkpoints, Position, load_state
from convnext_imagenet.train.run.compile_cache import CompileCache, graph_identity
from convnext_imagenet.train.run.context import Interval, RunContext
from convnext_imagenet.train.run.curves import curves_png
from convnext_imagenet.train.run.epoch import Reporter, gap_warnings, read_metrics, truncate_metrics
from convnext_imagenet.train.run.health import augment_warnings, size_warnings
from convnext_imagenet.train.run.history import (
    EPOCHS,
    Change,
    append_history,
    changed_settings,
    in_force,
    read_history,
)
from convnext_imagenet.train.run.initial_weights import GivenWeights, InitialWeights, initial_weights
from convnext_imagenet.train.run.loop import run_epochs
from convnext_imagenet.train.run.plan import Accepted, as_changes, begin_run, join_run, run_plan, stored_plan
from convnext_imagenet.train.step.learner import Learner
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config

_HISTORY, _METRICS = "history.jsonl", "metrics.jsonl"
_ADVICE = "run the same command again to resume from the saved checkpoint"


@dataclass(frozen=True)
class RunSummary:
    """How a run ended; `was_finished` is true if there was nothing left to do.

    It has fewer than `epochs` epochs if it ended early. `best` was chosen by `best_by`.
    """

    run: Path
    last: Position
    best: Position
    was_finished: bool
    epochs: int
    best_by: BestBy


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

    `init_from` is a weights file to start from; its SHA-256 is part of the run's plan. With `init_state`, the file of
    the optimizer's state that belongs to these weights, the run starts with that, too. `accepted` holds the changes of
    an existing run that the user accepts. `ranks` share the work; only the first of them writes. A run that diverges
    goes back to its last checkpoint at most `rollbacks` times.
    """

    records: Path
    run: Path
    workers: int
    interval: Interval = field(default_factory=Interval)
    init_from: Path | None = None
    init_state: Path | None = None
    accepted: Accepted = field(default_factory=Accepted)
    ranks: Ranks = field(default_factory=Ranks)
    rollbacks: int = 0


def train(config: Config, request: RunRequest, reporter: RunReporter) -> RunSummary:
    """Train `config` on the records into the RUN directory, or resume what an earlier call began there.

    Everything is checked before the first file is written. Raises ConfigError for a configuration that does not fit
    the records, ArtefactError for damaged records or a RUN of another plan, ModelError for damaged initial weights,
    TrainError for weights of another network, a damaged checkpoint or a run that diverges, LaunchError for ranks
    that differ, and Interrupted on a stop signal.
    """
    run, ranks = request.run, request.ranks
    checked = _check(config, request)
    with _held(run, ranks), StopSignals(_ADVICE, second_ends=ranks.own.world == 1) as stop:
        plan_id = _begin(run, checked.fingerprint, config, request.accepted, ranks)
        if is_finished(run):
            return _summary(run, config.train, was_finished=True)
        reporter.on_begin()
        if ranks.own.is_first:
            write_atomically(run / "config.toml", to_toml(config).encode())
        checkpoints = Checkpoints(
            run, plan_id, config.train.keep_checkpoints, config.train.keep_best, config.train.best_by
        )
        first, parts = checked.first, checked.parts
        learner = Learner(
            config, checked.card, first.arrays, ranks.own.world, parts.micro_batches, checked.rows_per_class
        )
        done = _resume(learner, checkpoints, ranks)
        if request.init_state is not None and not done.step:
            _restore_state(learner, first, request.init_state)
        gaps = _resume_metrics(run, done) if ranks.own.is_first else []
        if first.origin and not done.step:
            reporter.on_initial_weights(first.origin)
        reporter.on_start(checked.plan, parts, done)
        history = read_history(run / _HISTORY)
        for warning in [*_warnings(config, request, checked, done, history), *gaps]:
            reporter.on_warning(warning)
        context = RunContext(
            config=config,
            plan=checked.plan,
            parts=parts,
            card=checked.card,
            learner=learner,
            train_split=checked.records.split("train"),
            val_split=checked.records.split("val"),
            checkpoints=checkpoints,
            metrics_path=run / _METRICS,
            workers=request.workers,
            interval=request.interval,
            reporter=reporter,
            stop=stop,
            ranks=ranks,
            heartbeat=own_heartbeat(),
            cache=CompileCache(run, ranks.own.number, graph_identity(plan_id, parts, checked.target, cpu_kernels())),
            rollback_limit=request.rollbacks,
            earlier_plans=_earlier_plans(config, checked.plan, history),
        )
        run_epochs(context, done)
        if ranks.own.is_first:
            write_atomically(run / "curves.png", curves_png(read_metrics(run / _METRICS)))
            finish(run, "run", _manifest(plan_id, checkpoints, history))
        ranks.wait_for_all()
        return _summary(run, config.train, was_finished=False)


@dataclass(frozen=True)
class _Checked:
    """What is known of a run, and was checked, before its directory is touched."""

    records: Records
    rows_per_class: tuple[int, ...]
    target: str
    plan: StepPlan
    parts: BatchParts
    card: ModelCard
    first: InitialWeights
    has_weights: bool
    fingerprint: dict[str, Any]


def _check(config: Config, request: RunRequest) -> _Checked:
    """Open the records and the given weights, and check that they, the configuration and all ranks fit together."""
    ranks = request.ranks
    records = ranks.first_rank_first(lambda: Records.open(request.records))
    rows, rows_per_class = _visited(records.split("train"), config)
    target = mindspore.get_context("device_target")
    check_fit(config, RunFacts(ranks.own.world, rows, len(records.classes), target, chip_name()))
    plan = plan_steps(config, rows, ranks.own.world)
    parts = divide_batch(config, ranks.own.world, rows)
    given = None if request.init_from is None else GivenWeights(request.init_from, *load_weights(request.init_from))
    start = [path for path in (request.init_from, request.init_state) if path is not None]
    fingerprint = run_plan(config, records, start, stored_plan(request.run))
    card = ModelCard(
        config=network_config(config.model, len(records.classes)),
        classes=tuple((entry.wnid, entry.name) for entry in records.classes),
        transform=evaluation_transform(config.data),
        provenance=fingerprint | ({} if given is None else inherited_licence(given.card)),
    )
    first = initial_weights(config, card, given)
    check_same_parts(parts, ranks)
    return _Checked(records, rows_per_class, target, plan, parts, card, first, given is not None, fingerprint)


def _resume_metrics(run: Path, done: Position) -> list[str]:
    """Drop the lines of epochs that will be repeated; return a warning for lines that are missing."""
    truncate_metrics(run / _METRICS, done.epoch)
    return gap_warnings(run / _METRICS, done.epoch)


def _warnings(
    config: Config, request: RunRequest, checked: _Checked, done: Position, history: Sequence[Change]
) -> list[str]:
    """Return what a user should know before the first step after `done`."""
    room = _room(request.run, request.ranks, checked.target)
    leak = leak_line(checked.records) if request.ranks.own.is_first else None
    return [
        *checked.first.warnings,
        *size_warnings(config.data),
        *augment_warnings(config.augment, checked.target),
        *(f"changed since the run began, after step {change.step}: {change}" for change in history),
        *([] if done.step else start_warnings(config, checked.plan, checked.has_weights)),
        *([leak] if leak else []),
        *room_warnings(config, checked.card.config, checked.parts, room, config.train.epochs - done.epoch),
    ]


def _visited(split: Split, config: Config) -> tuple[int, tuple[int, ...]]:
    """Return how many rows of train the run visits, and how many of each class."""
    if not config.data.leave_out:
        return split.rows, split.entry.rows_per_class
    rows = training_rows(split, config)
    return len(rows), tuple(np.bincount(split.labels()[rows], minlength=len(split.entry.rows_per_class)).tolist())


def _held(run: Path, ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    return exclusive(run) if ranks.own.is_first else contextlib.nullcontext()


def _begin(run: Path, plan: Mapping[str, Any], config: Config, accepted: Accepted, ranks: Ranks) -> str:
    """Declare the run once, on its first rank, and return the id of its plan, which all ranks must share.

    What has changed since the run began is written to its history, after the marks of a finished run are gone.
    """
    history = run / _HISTORY
    if ranks.own.is_first:
        plan_id, differences = begin_run(run, plan, config, in_force(read_history(history)), accepted)
        section = config.train
        checkpoints = Checkpoints(run, plan_id, section.keep_checkpoints, section.keep_best, section.best_by)
        checkpoints.check_pointers()
        last = checkpoints.last()
        changes = as_changes(differences, 0 if last is None else last.step)
        is_longer = accepted.extend and last is not None and last.epoch < config.train.epochs
        if any(change.key == EPOCHS for change in changes) or is_longer:  # the second: it had ended early
            reopen(run)
        if not is_finished(run):
            changes += _changed_settings(run, config, changes)
        if changes:
            append_history(history, changes, 0 if last is None else last.step)
    ranks.wait_for_all()
    return join_run(run, plan, config, in_force(read_history(history)))


def _changed_settings(run: Path, config: Config, known: Sequence[Change]) -> list[Change]:
    """Return what differs from the configuration that the run was last resumed with, besides `known` changes."""
    try:
        before = load_config(str(run / "config.toml"))
    except ConfigError:
        return []  # the run has just begun, or its file is of another program
    keys = {change.key for change in known}
    changes = changed_settings(dotted_values(before), dotted_values(config), 0)
    return [change for change in changes if change.key not in keys]


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


def _restore_state(learner: Learner, first: InitialWeights, state: Path) -> None:
    """Start with a saved optimizer state. Raises TrainError when it belongs to other parameters."""
    if not first.keeps_head:
        raise TrainError(
            f"--with-optimizer: the classes of {state.parent.parent} are not the records', so the head is new and has "
            f"no moments; leave --with-optimizer out"
        )
    average = {name: array.copy() for name, array in first.arrays.items()} if learner.average() else {}
    learner.restore(first.arrays, load_state(state), average)


def _room(run: Path, ranks: Ranks, target: str) -> Room:
    """Return the free disk, and the free memory of each rank if it computes on the host; nothing on other ranks."""
    if not ranks.own.is_first:
        return Room()
    memory = available_memory_mib() // max(1, ranks.own.world) if target == "CPU" else None
    return Room(disk=read_disk(run).free_mib << 20, memory=None if memory is None else memory << 20)


def _earlier_plans(config: Config, plan: StepPlan, history: Sequence[Change]) -> tuple[tuple[int, StepPlan], ...]:
    """Return the plans that were in force until a step, as (step, plan): the run had fewer epochs then."""
    return tuple(
        (change.step, dataclasses.replace(plan, epochs=change.was, total_steps=change.was * plan.steps_per_epoch))
        for change in history
        if change.key == EPOCHS
    )


def _manifest(plan_id: str, checkpoints: Checkpoints, history: Sequence[Change]) -> dict[str, Any]:
    pointers = {"best": checkpoints.best(), "last": checkpoints.last()}
    return {
        "plan_id": plan_id,
        **({"changes": [dataclasses.asdict(change) for change in history]} if history else {}),
        **{name: dataclasses.asdict(position) for name, position in pointers.items() if position},
    }


def _summary(run: Path, section: TrainSection, was_finished: bool) -> RunSummary:
    manifest = read_finished(run, "run")
    last, best = Position(**manifest["last"]), Position(**manifest["best"])
    return RunSummary(run, last, best, was_finished, section.epochs, section.best_by)
