"""What the training loop works with, and how the ranks of a run save a checkpoint together."""

from dataclasses import dataclass
from pathlib import Path

from convnext_imagenet.base.signals import StopSignals
from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.launch.ranks.heartbeat import HeartbeatWriter
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.records.reader import Split
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import BatchParts, StepPlan
from convnext_imagenet.train.run.checkpoint import Checkpoints, Position, Snapshot
from convnext_imagenet.train.run.compile_cache import CompileCache
from convnext_imagenet.train.run.epoch import Reporter
from convnext_imagenet.train.step.learner import Learner


@dataclass(frozen=True)
class Interval:
    """How often a checkpoint is saved within an epoch: every `steps` steps, every `seconds` seconds; 0 is never."""

    steps: int = 0
    seconds: float = 0.0

    def is_due(self, steps_done: int) -> bool:
        """Return whether a checkpoint follows step `steps_done` of the run; the same on all ranks."""
        return self.steps > 0 and steps_done % self.steps == 0

    def is_overdue(self, last_save: float, now: float) -> bool:
        """Return whether it is time for a checkpoint (clock values in seconds). Ranks may disagree: clocks differ."""
        return self.seconds > 0 and now - last_save >= self.seconds


@dataclass(frozen=True)
class RunContext:
    """Everything that the loop needs. `workers` threads prepare batches; their number changes no result.

    A diverged run goes back to its last checkpoint at most `rollback_limit` times. `earlier_plans` holds pairs (step,
    plan) of plans that were in force until this step, in order.
    """

    config: Config
    plan: StepPlan
    parts: BatchParts
    card: ModelCard
    learner: Learner
    train_split: Split
    val_split: Split
    checkpoints: Checkpoints
    metrics_path: Path
    workers: int
    interval: Interval
    reporter: Reporter
    stop: StopSignals
    ranks: Ranks
    heartbeat: HeartbeatWriter
    cache: CompileCache
    rollback_limit: int = 0
    earlier_plans: tuple[tuple[int, StepPlan], ...] = ()

    def plan_at(self, step: int) -> StepPlan:
        """Return the plan that sets the learning rate of optimizer step `step`: of a run that was extended, its own."""
        return next((plan for until, plan in self.earlier_plans if step < until), self.plan)

    @property
    def is_single_rank(self) -> bool:
        """Return whether this rank is the only one, and so may stop without asking the others."""
        return self.ranks.own.world == 1

    def save(self, position: Position) -> None:
        """Save a checkpoint on the first rank, after checking that all ranks hold the same bits.

        Raises LaunchError when the ranks differ, FailedError when the checkpoint cannot be written.
        """
        self.heartbeat.beat("saving a checkpoint")
        snapshot = Snapshot(self.learner.weights(), self.learner.state(), self.learner.average())
        if not self.is_single_rank:
            self.ranks.check_same(f"weights, average or optimizer state after step {position.step}", snapshot.digest())
        if self.ranks.own.is_first:
            self.checkpoints.save(position, snapshot, self.card)
        self.heartbeat.beat("training")
