"""Describes a prediction job by names and options only: small enough to send to another process, which opens it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.base.uris import public_place
from convnext_imagenet.serve.checkpoint import Checkpoint, load_checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.inputs.kinds import open_inputs
from convnext_imagenet.serve.settings import InputOptions, PredictOptions, TransformOptions, Weights


@dataclass(frozen=True)
class PredictionSpec:
    """A prediction job by its paths and options; any process that sees the paths can open the same job.

    `out` is a path, or the URI of a folder in a store.
    """

    checkpoint: Path
    weights: Weights
    transform: TransformOptions
    images: str
    choice: InputOptions
    out: Path | str
    options: PredictOptions

    @property
    def paths(self) -> list[Path]:
        """Return the paths that every node must be able to read: the checkpoint, a report, inputs outside a store."""
        report = self.options.calibration
        return [self.checkpoint, *([report] if report else []), *([] if is_uri(self.images) else [Path(self.images)])]

    def open(self) -> tuple[Checkpoint, Inputs]:
        """Return the weights with the requested transform, and the inputs.

        Raises ServeError for `out` inside a store's inputs, and what `load_checkpoint`, `evaluated_with` and
        `open_inputs` raise.
        """
        if isinstance(self.out, str) and f"{public_place(self.out)}/".startswith(f"{public_place(self.images)}/"):
            raise ServeError(
                f"{public_place(self.out)}: lies inside the inputs, so its files would become inputs; choose another "
                f"--out"
            )
        checkpoint = load_checkpoint(self.checkpoint, self.weights).evaluated_with(self.transform)
        wnids, names = ([pair[place] for pair in checkpoint.card.classes] for place in (0, 1))
        return checkpoint, open_inputs(self.images, wnids, names=names, **self.choice._asdict())

    def for_other_nodes(self, workers: int) -> Self:
        """Return the same job with absolute paths, which hold in any working directory, and with `workers` threads."""
        report = self.options.calibration
        return replace(
            self,
            checkpoint=self.checkpoint.absolute(),
            images=self.images if is_uri(self.images) else str(Path(self.images).absolute()),
            out=self.out if isinstance(self.out, str) else self.out.absolute(),
            options=replace(self.options, workers=workers, calibration=report and report.absolute()),
        )
