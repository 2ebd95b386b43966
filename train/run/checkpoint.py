"""Checkpoints of a RUN: a unit per finished epoch, one rotating unit within an epoch, and the pointers to them.

A unit consists of `epoch-0003.weights.safetensors`, `epoch-0003.ema.safetensors` if the run averages its weights (both
models with their card), `epoch-0003.state.safetensors` (everything else that the next step depends on) and a receipt.
Within an epoch it is named after its step, `step-00001234`. A unit is published before a pointer names it, so that a
pointer always names a complete unit. `best` ends in `.ema` if the average is the better model of its unit.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.files import naming, write_atomically
from convnext_imagenet.base.protocol import publish, read_receipt, staging
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.weight_check import not_finite
from convnext_imagenet.model.weights import load_weights, save_weights
from convnext_imagenet.train.errors import TrainError

_BEST, _LAST = "best", "last"
BestBy = Literal["top1", "loss"]
Score = tuple[float, float]  # what decides, and what decides among equals; higher is better


@dataclass(frozen=True)
class Position:
    """The position of a checkpoint in its run: finished epochs and finished optimizer steps.

    `top1` and `ema_top1` are the accuracies (0..1) of the weights and of their average, `loss` and `ema_loss` their
    mean cross entropies, None if not evaluated. `within` holds the sums of an unfinished epoch; it is None at the end
    of an epoch. `rollbacks` counts how often the run has left out steps after a divergence.
    """

    epoch: int
    step: int
    top1: float | None = None
    ema_top1: float | None = None
    within: Mapping[str, Any] | None = None
    rollbacks: int = 0
    loss: float | None = None
    ema_loss: float | None = None

    @property
    def unit(self) -> str:
        """Return the name of the checkpoint's unit."""
        return f"epoch-{self.epoch:04d}" if self.within is None else f"step-{self.step:08d}"

    def best_numbers(self, by: BestBy) -> tuple[float | None, float | None]:
        """Return top-1 and loss of the better of the two models."""
        return (self.ema_top1, self.ema_loss) if self.best_weights(by) == "ema" else (self.top1, self.loss)

    def score(self, by: BestBy) -> Score | None:
        """Return the better of the two models' numbers, higher is better; None if neither was evaluated.

        Of equal top-1, the lower loss is better, and of equal loss the higher top-1: on a small val, many are equal.
        """
        return max((value for value in self._scores(by) if value is not None), default=None)

    def best_weights(self, by: BestBy) -> str:
        """Return which of the unit's models is better: "weights" or "ema"."""
        own, average = self._scores(by)
        return "ema" if average is not None and (own is None or average > own) else "weights"

    def is_better_than(self, other: "Position | None", by: BestBy) -> bool:
        """Return whether this position was evaluated and is better than `other`, which may be none."""
        own = self.score(by)
        before = None if other is None else other.score(by)
        return own is not None and (before is None or own > before)

    def _scores(self, by: BestBy) -> tuple[Score | None, Score | None]:
        return _score(self.top1, self.loss, by), _score(self.ema_top1, self.ema_loss, by)


def _score(top1: float | None, loss: float | None, by: BestBy) -> Score | None:
    gain = -math.inf if loss is None else -loss
    if by == "top1":
        return None if top1 is None else (top1, gain)
    return None if loss is None else (gain, -math.inf if top1 is None else top1)


@dataclass(frozen=True)
class Snapshot:
    """Everything that a run needs to resume: weights, their average (or nothing), and the rest of the state."""

    weights: Mapping[str, np.ndarray]
    state: Mapping[str, np.ndarray]
    average: Mapping[str, np.ndarray]

    def not_finite(self) -> str | None:
        """Return the name of the first array with a value that is not finite, or None."""
        parts = self.weights, self.average, self.state
        return next((name for part in parts if (name := not_finite(part)) is not None), None)

    def digest(self) -> bytes:
        """Return the SHA-256 of all names and bytes of the snapshot."""
        sha256 = hashlib.sha256()
        for part in (self.weights, self.state, self.average):
            for name, array in sorted(part.items()):
                sha256.update(name.encode() + b"\0")
                sha256.update(np.ascontiguousarray(array).data)
        return sha256.digest()


class Checkpoints:
    """The checkpoints of one run. It keeps those of the `keep_best` best and the `keep` latest epochs (0: of all)."""

    def __init__(self, run: Path, plan_id: str, keep: int, keep_best: int, best_by: BestBy = "top1") -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.plan_id = plan_id
        self.keep = keep
        self.keep_best = keep_best
        self.best_by: BestBy = best_by

    def save(self, position: Position, snapshot: Snapshot, card: ModelCard) -> None:
        """Publish a checkpoint, move the pointers, and remove the checkpoints that are no longer kept.

        Raises TrainError when it holds a value that is not finite, FailedError when it cannot be written; the previous
        checkpoint then stays as it was.
        """
        if (name := snapshot.not_finite()) is not None:
            raise TrainError(f"{self.folder}: {position.unit} is not saved, {name} has values that are not finite")
        try:
            publish(self._write(position, snapshot, card), self.folder, position.unit, self.plan_id, _facts(position))
            if position.is_better_than(self.best(), self.best_by):
                self._point(_BEST, self._best_name(position))
            self._point(_LAST, position.unit)
            self._remove_old(position)
        except (OSError, ArtefactError) as error:
            raise FailedError(
                f"{self.folder}: {position.unit} could not be saved ({error}); {self._what_is_left()}: "
                f"free disk space, then run the same command again to resume"
            ) from error

    def check_pointers(self) -> None:
        """Raise TrainError for a pointer that names no whole checkpoint, or is missing beside checkpoints.

        A crash before a pointer was first written leaves it missing, too: that is no damage.
        """
        last, best = self.last(), self.best()
        found = [position for unit in self._units() if (position := self._read(unit)) is not None]
        if last is None and len(found) > 1:
            newest = max(found, key=lambda position: position.step)
            raise TrainError(
                f"{self.run / _LAST}: is missing; write the name of the newest checkpoint, {newest.unit}, into it to "
                f"resume, or {self._to_begin_anew()}"
            )
        if best is not None or last is None:
            return
        for position in found:
            if position.step <= last.step and position.is_better_than(best, self.best_by):
                best = position
        if best is not None:
            raise TrainError(
                f"{self.run / _BEST}: is missing; write the name of the best checkpoint, {self._best_name(best)}, into "
                f"it, then run the same command again"
            )

    def last(self) -> Position | None:
        """Return the position of the last checkpoint, or None before the first. Raises TrainError if it is damaged."""
        return self._pointed_to(_LAST, deep=True)  # a run resumes from it, so its hashes are checked

    def best(self) -> Position | None:
        """Return the best position by `best_by`, or None before the first. Raises TrainError if it is damaged."""
        return self._pointed_to(_BEST, deep=False)

    def load(self, position: Position) -> Snapshot:
        """Return the content of a checkpoint that `last` or `best` returned."""
        base = self.folder / position.unit
        average = base.with_name(f"{position.unit}.ema.safetensors")
        return Snapshot(
            weights=load_weights(base.with_name(f"{position.unit}.weights.safetensors"))[0],
            state=load_state(base.with_name(f"{position.unit}.state.safetensors")),
            average=load_weights(average)[0] if average.exists() else {},
        )

    def _what_is_left(self) -> str:
        pointer = self.run / _LAST
        return f"checkpoint {_pointed_unit(pointer)} is whole" if pointer.exists() else "there is no checkpoint yet"

    def _write(self, position: Position, snapshot: Snapshot, card: ModelCard) -> list[Path]:
        folder = staging(self.run)
        paths = [folder / f"{position.unit}.{part}.safetensors" for part in ("weights", "state", "ema")]
        save_weights(paths[0], snapshot.weights, card)
        with naming(paths[1]):
            paths[1].write_bytes(safetensors.numpy.save(dict(snapshot.state)))
        if not snapshot.average:
            return paths[:2]
        save_weights(paths[2], snapshot.average, card)
        return paths

    def _pointed_to(self, pointer: str, deep: bool) -> Position | None:
        path = self.run / pointer
        if not path.exists():
            return None
        unit = _pointed_unit(path)
        position = self._read(unit, deep) if unit in self._units() else None
        if position is None:
            others = ", ".join(other for other in self._units() if other != unit)
            raise TrainError(
                f"{path}: names {unit!r}, which is missing or damaged in {self.folder}; restore its files"
                + (f", or write the name of another checkpoint into {path} ({others})" if others else "")
                + f", or {self._to_begin_anew()}"
            )
        return position

    def _to_begin_anew(self) -> str:
        return f"remove {self.folder}, {self.run / _LAST} and {self.run / _BEST} to begin anew"

    def _best_name(self, position: Position) -> str:
        is_average = position.best_weights(self.best_by) == "ema"
        return f"{position.unit}.ema" if is_average else position.unit

    def _read(self, unit: str, deep: bool = False) -> Position | None:
        receipt = read_receipt(self.folder, unit, self.plan_id, deep)
        return None if receipt is None else Position(**receipt["facts"])

    def _point(self, pointer: str, name: str) -> None:
        write_atomically(self.run / pointer, f"{name}\n".encode())

    def _units(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*-*.json"))

    def _remove_old(self, last: Position) -> None:
        kept = {last.unit, *self._kept_epochs()}
        for unit in set(self._units()) - kept:
            (self.folder / f"{unit}.json").unlink()  # the receipt first: without it the unit does not count
            for path in self.folder.glob(f"{unit}.*.safetensors"):
                path.unlink()

    def _kept_epochs(self) -> set[str]:
        epochs = [unit for unit in self._units() if unit.startswith("epoch-")]
        if not self.keep:
            return set(epochs)
        scored = [
            (score, position)
            for unit in epochs
            if (position := self._read(unit)) and (score := position.score(self.best_by)) is not None
        ]
        ranked = sorted(scored, key=lambda pair: (-pair[0][0], -pair[0][1], pair[1].epoch))
        best = [position for _, position in ranked[: self.keep_best]]
        return {*epochs[-self.keep :], *(position.unit for position in best)}


def state_of(weights: Path) -> Path:
    """Return the file of the optimizer's state that was saved with a weights file. Raises TrainError if it is gone."""
    state = weights.with_name(f"{weights.name.removesuffix('.weights.safetensors')}.state.safetensors")
    if not state.is_file():
        raise TrainError(f"{state}: no such file, so {weights.name} has no optimizer state; leave --with-optimizer out")
    return state


def load_state(path: Path) -> dict[str, np.ndarray]:
    """Return the optimizer's state by name. Raises TrainError for a file that cannot be read."""
    try:
        return safetensors.numpy.load_file(path)
    except (SafetensorError, OSError) as error:
        raise TrainError(f"{path}: not a saved optimizer state ({error}); restore it, or start without it") from None


def _pointed_unit(pointer: Path) -> str:
    return pointer.read_text(errors="replace").strip().removesuffix(".ema")


def _facts(position: Position) -> dict[str, Any]:
    return {
        "epoch": position.epoch,
        "step": position.step,
        "top1": position.top1,
        "ema_top1": position.ema_top1,
        "within": None if position.within is None else dict(position.within),
        "rollbacks": position.rollbacks,
        "loss": position.loss,
        "ema_loss": position.ema_loss,
    }
