"""What the commands that train, suggest or plan ask of their records, weights and configuration."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convnext_imagenet.base.wording import as_word, to_type

if TYPE_CHECKING:  # importing these takes seconds, and --help must answer at once
    from convnext_imagenet.records.manifest import Manifest
    from convnext_imagenet.serve.settings import Weights
    from convnext_imagenet.train.config.config import Config


def check_request(records: Path, workers: int | None) -> None:
    """Raise TrainError for records that are not there, or more workers than this process has cores."""
    from convnext_imagenet.train.errors import TrainError

    cores = len(os.sched_getaffinity(0))
    if (workers or 1) > cores:
        raise TrainError(f"--workers {workers}: must not exceed the {cores} cores of this process")
    if not records.exists():
        command = f"convnext-ingest build /path/to/images --out {as_word(records)}"
        way_out = to_type("records DATA=/path/to/images", command)
        raise TrainError(f"{records}: no such RECORDS directory; create one with `{way_out}`")


def load_fitting(config: str, overrides: tuple[str, ...], records: Path | None, devices: int, target: str) -> "Config":
    """Return CONFIG with its overrides, which fits the devices, their kind and the rows of RECORDS that it visits.

    Records without train, or that cannot be read, are refused later. Raises ConfigError as `load_config` does.
    """
    from convnext_imagenet.base.errors import ArtefactError
    from convnext_imagenet.train.config.fit import RunFacts, check_fit
    from convnext_imagenet.train.config.source import load_config

    manifest = None if records is None else _manifest_with_train(records)
    if records is None or manifest is None:
        return load_config(config, overrides, RunFacts(devices, target=target))
    train = manifest.splits["train"]
    facts = RunFacts(devices, train.rows, len(manifest.classes), target)
    resolved = load_config(config, overrides, facts)
    if resolved.data.leave_out:
        from convnext_imagenet.records.folds import rows_outside

        with contextlib.suppress(ArtefactError):
            rows = len(rows_outside(resolved.data.leave_out, train, records / "train", resolved.data.copies))
            check_fit(resolved, replace(facts, rows=rows))
    return resolved


def _manifest_with_train(records: Path) -> "Manifest | None":
    from convnext_imagenet.base.errors import ArtefactError
    from convnext_imagenet.base.protocol import read_finished
    from convnext_imagenet.records.manifest import Manifest

    try:
        manifest = Manifest.from_json(read_finished(records, "records"))
    except ArtefactError:
        return None
    return manifest if "train" in manifest.splits else None


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
    from convnext_imagenet.serve.pointers import resolve_checkpoint
    from convnext_imagenet.train.config.from_weights import keys_from_weights, load_config_for_weights

    weights = resolve_checkpoint(init_from, kind)
    resolved = load_config_for_weights(config, overrides, load_card(weights), out)
    if say and (taken := keys_from_weights(config, overrides, resolved)):
        say(f"not stated, so taken from the weights: {' '.join(taken)}")
    return weights, resolved
