"""What makes two runs the same run, and which changes of it may be accepted when an existing RUN is resumed."""

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, sha256_file
from convnext_imagenet.base.plan_changes import MISSING, Difference, describe
from convnext_imagenet.base.protocol import OtherPlanError, begin, join
from convnext_imagenet.base.wording import as_word
from convnext_imagenet.model.convnext import NETWORK_VERSION, ConvNeXtConfig, init_parameters
from convnext_imagenet.model.transform import TRANSFORM_VERSION, evaluation_pixels
from convnext_imagenet.records.epoch_order import epoch_order
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.records.reader import Records
from convnext_imagenet.train.augment.device import DRAWS_VERSION, device_draws
from convnext_imagenet.train.augment.host import training_pixels
from convnext_imagenet.train.config.config import Config, keys_outside_plan, neutral_values
from convnext_imagenet.train.errors import ConfigError, TrainError
from convnext_imagenet.train.run.history import EPOCHS, Change, shown_key
from convnext_imagenet.train.step.parameters import evaluation_transform
from convnext_imagenet.train.step.step import STEP_VERSION

# Packages whose version can change a number of the run; for all but MindSpore, `_decisions` shows whether it does.
_VERSIONED = ("mindspore", "numpy", "pillow", "opencv-python-headless")
_PROBED_ROWS, _PROBED_EPOCHS = 8, 4  # every operation of RandAugment is likely to be drawn
_PROBE_NETWORK = ConvNeXtConfig(variant="", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), grn=False, num_classes=2)


@dataclass(frozen=True)
class Accepted:
    """The changes of an existing RUN that its user accepts: more epochs, other versions of libraries."""

    extend: bool = False
    versions: bool = False


def run_plan(
    config: Config,
    records: Records,
    start: Sequence[Path] = (),
    stored: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what makes two runs the same run: configuration, records, initial weights, rules and versions.

    `start` holds the files that the run starts from: weights, then the optimizer's state. `stored` is the plan of an
    existing RUN. It is compared with the returned plan by value; a configuration key that it lacks counts as the
    neutral value that `added_later` declares, and keys that were declared by `outside_plan` do not count (DECISIONS,
    2026-11-28). A file of copies may move: its name has a digest of its content. Another version of a library counts
    only if it decides otherwise for the first rows of the records (DECISIONS, 2026-11-29).
    """
    values = dataclasses.asdict(config)
    for key in keys_outside_plan(config):
        section, name = key.split(".")
        del values[section][name]
    values["data"]["copies"] = _copies(config, stored)
    plan = {
        "config": values,
        "records": {"manifest_sha256": records.manifest_sha256},
        "rules": {
            "draws": DRAWS_VERSION,
            "network": NETWORK_VERSION,
            "step": STEP_VERSION,
            "transform": TRANSFORM_VERSION,
        },
        "start": _start(start),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONED},
    }
    if stored is not None and "decides" not in stored:
        return plan  # of a program that compared versions only
    plan["decides"] = _decisions(config, records)
    if stored is not None and stored["decides"] == plan["decides"]:
        plan["versions"] = {**stored.get("versions", {}), "mindspore": plan["versions"]["mindspore"]}
    return plan


def stored_plan(run: Path) -> dict[str, Any] | None:
    """Return the plan of an existing RUN, or None if there is none that can be read; `begin` says why."""
    try:
        plan = read_json(run / "plan.json")["plan"]
    except (ArtefactError, OSError, KeyError, TypeError):
        return None
    return plan if isinstance(plan, dict) else None


def begin_run(
    run: Path, plan: Mapping[str, Any], config: Config, changed: Mapping[str, Any], accepted: Accepted
) -> tuple[str, list[Difference]]:
    """Write the plan of a new RUN, or compare it with an existing one; return its id and the newly accepted changes.

    `changed` holds the keys of the existing plan that were changed before. Raises ConfigError for a run that would
    become shorter, ArtefactError for a directory of another run.
    """
    neutral, outside = _neutral(config), _outside(config)
    try:
        return begin(run, "run", plan, neutral, outside, changed), []
    except OtherPlanError as error:
        _refuse(run, error, accepted)
        new = {each.key: each.wanted for each in error.changed}
        return begin(run, "run", plan, neutral, outside, {**changed, **new}), list(error.changed)


def join_run(run: Path, plan: Mapping[str, Any], config: Config, changed: Mapping[str, Any]) -> str:
    """Return the id of the plan of a RUN that the first rank has begun. Raises ArtefactError if it has another plan."""
    try:
        return join(run, "run", plan, _neutral(config), _outside(config), changed)
    except OtherPlanError as error:
        raise ArtefactError(
            f"{run}: {_reason(error)}; start the same command, with equal files and versions, on every machine"
        ) from None


def as_changes(differences: Sequence[Difference], step: int) -> list[Change]:
    """Return accepted differences as changes after `step`."""
    return [Change(each.key, each.stored, each.wanted, step, in_plan=True) for each in differences]


def _copies(config: Config, stored: Mapping[str, Any] | None) -> str:
    """Return the name of the file of copies, or what the stored plan calls it: plans have held its path, too."""
    name = Path(config.data.copies).name
    before = (stored or {}).get("config", {}).get("data", {}).get("copies", name)
    return str(before) if Path(str(before)).name == name else name


def _start(files: Sequence[Path]) -> Any:
    if not files:
        return None
    hashes = [sha256_file(path) for path in files]
    return hashes[0] if len(hashes) == 1 else {"weights": hashes[0], "state": hashes[1]}


def _reason(error: OtherPlanError) -> str:
    """Return what differs, in the user's words; digests that follow from another configuration or records say nothing.

    What libraries decide is a digest over both.
    """
    is_asked_otherwise = any(each.key.startswith(("config.", "records")) for each in error.changed)
    told = [each for each in error.changed if not (is_asked_otherwise and each.key.startswith("decides."))]
    return f"belongs to another run {describe([dataclasses.replace(each, key=shown_key(each.key)) for each in told])}"


def _refuse(run: Path, error: OtherPlanError, accepted: Accepted) -> None:
    """Raise an error unless all differences are accepted; it names the option that would accept them."""
    longer = [each for each in error.changed if each.key == EPOCHS]
    if longer and longer[0].wanted < longer[0].stored:
        raise ConfigError(
            f"train.epochs = {longer[0].wanted}: --extend makes a run longer, and {run} has {longer[0].stored} epochs; "
            f"choose another directory for a shorter one"
        )
    versions = [each for each in error.changed if each.key.startswith(("versions.", "decides."))]
    versions = [each for each in versions if MISSING not in (each.stored, each.wanted)]
    needed = {
        "--extend": bool(longer) and not accepted.extend,
        "--accept-versions": bool(versions) and not accepted.versions,
    }
    can_be_accepted = len(longer) + len(versions) == len(error.changed)
    if can_be_accepted and not any(needed.values()):
        return
    options = " ".join(option for option, is_needed in needed.items() if is_needed)
    way_out = f", or accept the change with {options}" if can_be_accepted else ""
    if any(each.key.startswith("records.") for each in error.changed):
        raise ArtefactError(
            f"{run}: {_reason(error)}; a run belongs to its records: pass the records that it began on, or another "
            f"--out, with --init-from {run} to start from its weights{error.way_back}"
        )
    raise ArtefactError(f"{run}: {_reason(error)}; choose another directory{way_out}{error.way_back}")


def _neutral(config: Config) -> dict[str, Any]:
    return {f"config.{key}": value for key, value in neutral_values(config).items()}


def _outside(config: Config) -> set[str]:
    return {f"config.{key}" for key in keys_outside_plan(config)}


def _decisions(config: Config, records: Records) -> dict[str, str]:
    """Return digests of what NumPy, Pillow and OpenCV decide: order, draws, initial weights, pixels of the first rows.

    Raises TrainError for a row that does not decode.
    """
    split = records.split("train")
    rows = list(split.read(range(min(_PROBED_ROWS, split.rows))))
    images = [row["image"] for row in rows]
    ids = np.array([row["sample_id"] for row in rows])
    even = ids[: len(ids) // 2 * 2]
    side = config.data.size_px
    epochs = range(1, _PROBED_EPOCHS + 1)
    pixels = np.empty((len(images), side, side, 3), np.uint8)
    trained = hashlib.sha256()
    transform = evaluation_transform(config.data)
    try:
        for epoch in epochs:
            training_pixels(images, config, epoch, ids, pixels)
            trained.update(pixels.data)
        evaluated = [evaluation_pixels(decode_rgb(image), transform) for image in images]
    except BadImage as error:
        raise TrainError(
            f"{split.folder}: an image does not decode ({error}); run "
            f"`convnext-records verify {as_word(records.root)}`, then repair the records as it says"
        ) from None
    order = [epoch_order(1000, config.train.seed, epoch, config.data.shuffle_block_rows) for epoch in epochs]
    drawn = [device_draws(config, epoch, 0, even, (0.5,)) for epoch in epochs]
    draws = [array for draw in drawn for array in draw if array is not None]
    weights = init_parameters(_PROBE_NETWORK, config.train.seed)
    return {
        "draws": _digest(draws),
        "evaluation_pixels": _digest(evaluated),
        "initial_weights": _digest([weights[name] for name in sorted(weights)]),
        "order": _digest(order),
        "training_pixels": trained.hexdigest(),
    }


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
