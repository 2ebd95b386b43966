"""Checkpoints of a RUN: one unit per finished epoch, the pointers `best` and `last`, and which units stay.

A unit is `epoch-0003.weights.safetensors` (a model with its card), `epoch-0003.state.safetensors` (what else the next
step depends on) and a receipt. It is published first and pointed to afterwards, so that a pointer always names a whole
unit. Files of a mid-epoch slot would be one more unit beside these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.weights import ModelCard, load_weights, save_weights
from convnext_imagenet.records.artefact import publish, read_receipt, staging
from convnext_imagenet.records.files import write_atomically
from convnext_imagenet.train.errors import TrainError

_BEST, _LAST = "best", "last"


@dataclass(frozen=True)
class Position:
    """Where a checkpoint stands: epochs and optimizer steps done, and its top-1, if it was evaluated."""

    epoch: int
    step: int
    top1: float | None

    @property
    def unit(self) -> str:
        """The name of the checkpoint's unit."""
        return f"epoch-{self.epoch:04d}"


class Checkpoints:
    """The checkpoints of one run; `keep` is how many of the latest stay beside the best, 0 for all."""

    def __init__(self, run: Path, plan_id: str, keep: int) -> None:
        self.run = run
        self.folder = run / "checkpoints"
        self.plan_id = plan_id
        self.keep = keep

    def save(
        self, position: Position, weights: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray], card: ModelCard
    ) -> None:
        """Publish a checkpoint, move the pointers, and remove what is no longer kept.

        Raises TrainError when the disk does not take it; the checkpoint before stays as it was.
        """
        facts = {"epoch": position.epoch, "step": position.step, "top1": position.top1}
        try:
            folder = staging(self.run)
            paths = [folder / f"{position.unit}.{part}.safetensors" for part in ("weights", "state")]
            save_weights(paths[0], weights, card)
            paths[1].write_bytes(safetensors.numpy.save(dict(state)))
            publish(paths, self.folder, position.unit, self.plan_id, facts)
            if _is_better(position, self.best()):
                self._point(_BEST, position)
            self._point(_LAST, position)
            self._remove_old(position)
        except (OSError, ModelError) as error:
            raise TrainError(
                f"{self.folder}: {position.unit} could not be saved ({error}); the checkpoint before it is whole: "
                f"make room, then run the same command again"
            ) from error

    def last(self) -> Position | None:
        """Return where the run stands, or None before its first checkpoint; TrainError when that is damaged."""
        return self._pointed_to(_LAST, deep=True)

    def best(self) -> Position | None:
        """Return the checkpoint of the highest top-1, or None before the first."""
        return self._pointed_to(_BEST, deep=False)

    def load(self, position: Position) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the weights and the rest of the state of a checkpoint that `last` or `best` found whole."""
        weights, _ = load_weights(self.folder / f"{position.unit}.weights.safetensors")
        state = safetensors.numpy.load_file(self.folder / f"{position.unit}.state.safetensors")
        return weights, state

    def _pointed_to(self, pointer: str, deep: bool) -> Position | None:
        path = self.run / pointer
        if not path.exists():
            return None
        unit = path.read_text(errors="replace").strip()
        receipt = read_receipt(self.folder, unit, self.plan_id, deep) if unit in self._units() else None
        if receipt is None:
            others = ", ".join(other for other in self._units() if other != unit)
            raise TrainError(
                f"{path}: names {unit!r}, which is missing or damaged in {self.folder}; restore its files"
                + (f", or write the name of another checkpoint into {path} ({others})" if others else "")
            )
        return _position(receipt["facts"])

    def _point(self, pointer: str, position: Position) -> None:
        write_atomically(self.run / pointer, f"{position.unit}\n".encode())

    def _units(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("epoch-*.json"))

    def _remove_old(self, last: Position) -> None:
        if not self.keep:
            return
        best = self.best()
        kept = {*self._units()[-self.keep :], last.unit, best.unit if best else last.unit}
        for unit in set(self._units()) - kept:
            (self.folder / f"{unit}.json").unlink()
            for path in self.folder.glob(f"{unit}.*.safetensors"):
                path.unlink()


def _is_better(position: Position, best: Position | None) -> bool:
    if position.top1 is None:
        return False
    return best is None or best.top1 is None or position.top1 > best.top1


def _position(facts: Mapping[str, Any]) -> Position:
    return Position(epoch=facts["epoch"], step=facts["step"], top1=facts["top1"])
