"""What the commands that train, suggest or plan ask of their records, weights and configuration."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing these takes seconds, and --help must answer at once
    from convnext_imagenet.serve.settings import Weights
    from convnext_imagenet.train.config.config import Config
    from convnext_imagenet.train.config.fit import RunFacts


def check_request(records: Path, workers: int | None) -> None:
    """Raise TrainError for records that are not there, or more workers than this process has cores."""
    from convnext_imagenet.train.errors import TrainError

    cores = len(os.sched_getaffinity(0))
    if (workers or 1) > cores:
        raise TrainError(f"--workers {workers}: must not exceed the {cores} cores of this process")
    if not records.exists():
        raise TrainError(
            f"{records}: no such RECORDS directory; create one with `make records DATA=/path/to/imagenet`, "
            f"or try everything on small images with `make demo`"
        )


def facts(records: Path | None, devices: int, target: str) -> "RunFacts":
    """Return what a configuration must fit. Records without train, or that cannot be read, are refused later."""
    from convnext_imagenet.base.errors import ArtefactError
    from convnext_imagenet.base.protocol import read_finished
    from convnext_imagenet.records.manifest import Manifest
    from convnext_imagenet.train.config.fit import RunFacts

    if records is not None:
        with contextlib.suppress(ArtefactError, KeyError):
            manifest = Manifest.from_json(read_finished(records, "records"))
            return RunFacts(devices, manifest.splits["train"].rows, len(manifest.classes), target)
    return RunFacts(devices, target=target)


def with_weights(
    config: str,
    overrides: tuple[str, ...],
    init_from: Path,
    out: Path | None,
    kind: "Weights",
    say: Callable[[str], None] | None,
) -> "tuple[Path, Config]":
    """Return the weights file of a RUN's `kind`, and CONFIG with what it leaves to the weights; say what this is."""
    from convnext_imagenet.model.weights import load_card
    from convnext_imagenet.serve.checkpoint import resolve_checkpoint
    from convnext_imagenet.train.config.from_weights import keys_from_weights, load_config_for_weights

    weights = resolve_checkpoint(init_from, kind)
    resolved = load_config_for_weights(config, overrides, load_card(weights), out)
    if say and (taken := keys_from_weights(config, overrides, resolved)):
        say(f"not stated, so taken from the weights: {' '.join(taken)}")
    return weights, resolved
