"""What a prediction job is, in names alone: small enough to send anywhere, whole enough to open the job there."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from convnext_imagenet.serve.checkpoint import Checkpoint, Weights, load_checkpoint
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.inputs.kinds import open_inputs
from convnext_imagenet.serve.predict.part_writer import Options


@dataclass(frozen=True)
class Order:
    """A prediction job by its names, from which any process that sees the paths opens the same job.

    `changes` are those of the evaluation transform (see `Checkpoint.evaluated_with`).
    """

    checkpoint: Path
    weights: Weights
    changes: tuple[tuple[str, Any], ...]
    images: str
    split: str
    column: str
    out: Path
    options: Options

    @property
    def paths(self) -> list[Path]:
        """What has to be there to be read: the checkpoint, and the inputs unless they are in a store."""
        return [self.checkpoint, *([] if _is_uri(self.images) else [Path(self.images)])]

    def open(self) -> tuple[Checkpoint, Inputs]:
        """The weights behind the transform asked for, and the inputs; raises what opening either raises."""
        checkpoint = load_checkpoint(self.checkpoint, self.weights).evaluated_with(**dict(self.changes))
        wnids = [wnid for wnid, _ in checkpoint.card.classes]
        return checkpoint, open_inputs(self.images, wnids, self.split, self.column)

    def for_other_nodes(self, workers: int) -> Self:
        """The same job by paths that do not depend on a process's working directory, with other decode threads."""
        return replace(
            self,
            checkpoint=self.checkpoint.absolute(),
            images=self.images if _is_uri(self.images) else str(Path(self.images).absolute()),
            out=self.out.absolute(),
            options=replace(self.options, workers=workers),
        )


def _is_uri(images: str) -> bool:
    return "://" in images
