"""Sums over an epoch's steps, which a checkpoint within the epoch takes along."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convnext_imagenet.train.learner import Outcome


@dataclass(frozen=True)
class Totals:
    """What an epoch has added up after `steps` optimizer steps; times in seconds."""

    steps: int = 0
    loss_sum: float = 0.0
    last_loss: float | None = None
    correct: float = 0.0
    skipped: int = 0
    rate: float = 0.0
    data_wait_s: float = 0.0
    train_s: float = 0.0

    def with_step(self, outcome: Outcome, rate: float) -> "Totals":
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

    def with_times(self, data_wait_s: float, train_s: float) -> "Totals":
        """Return the sums with more time spent."""
        return dataclasses.replace(self, data_wait_s=self.data_wait_s + data_wait_s, train_s=self.train_s + train_s)

    def to_json(self) -> dict[str, Any]:
        """The sums as JSON values; floats come back bit by bit."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Totals":
        """The sums that `to_json` gave."""
        return Totals(**values)
