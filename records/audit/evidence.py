"""What a network adds to an audit, made by our own programs inside of AUDIT: predictions of a given network, and of
networks that were each trained without one fold of train. Each is a directory of the same protocol, so a killed audit
resumes inside of it. Programs run through a function, because the rooms that train and predict must not be imported.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file, sha256_json, write_atomically
from convnext_imagenet.base.protocol import is_finished
from convnext_imagenet.records.audit.predictions import FoldedPredictions, Predictions, Probabilities, open_predictions
from convnext_imagenet.records.audit.sources import RecordsSource, Source
from convnext_imagenet.records.folds import assign_folds, group_copies, stored_sha256s, write_copies

# Raise when the same images are in other folds.
FOLDS_VERSION = 2
AUTO = "auto"
TRAIN = "train"
NETWORK_FOLDER, FOLDS_FOLDER = "network", "folds"
MOST_FOLDS = 20
# Runs `convnext` with these arguments and returns its output if the second argument is true.
Run = Callable[[Sequence[str], bool], str]


@dataclass(frozen=True)
class Network:
    """A network that computes features of all images, and probabilities for the splits that it has not `seen`.

    `sha256` is that of all that its weights file says about itself, with a digest of the values.
    """

    path: Path
    sha256: str
    unseen: tuple[str, ...]


@dataclass(frozen=True)
class Folds:
    """`count` trainings of `config`, a preset, a file or auto; with auto each takes about `minutes`."""

    count: int
    config: str
    minutes: float

    def identity(self) -> dict[str, Any]:
        """Return what makes the trainings the same, as JSON. Raises OSError for a file that cannot be read."""
        path = Path(self.config)
        if self.config == AUTO:
            return {"count": self.count, "config": AUTO, "minutes": self.minutes}
        return {"count": self.count, "config": sha256_file(path) if path.is_file() else self.config}


@dataclass(frozen=True)
class Asked:
    """Where an audit gets probabilities and features from; nothing by default."""

    predictions: tuple[Predictions, ...] = ()
    network: Network | None = None
    folds: Folds | None = None

    def splits(self) -> list[str]:
        """Return the splits whose labels are examined, once for each source of probabilities."""
        unseen = self.network.unseen if self.network else ()
        return [*(each.split for each in self.predictions), *unseen, *([TRAIN] if self.folds else [])]

    def identity(self) -> dict[str, Any]:
        """Return the part of the audit's plan, as JSON; keys only for what was asked for."""
        network, folds = self.network, self.folds
        return {
            "predictions": {each.split: each.sha256 for each in self.predictions},
            **({"network": {"sha256": network.sha256, "unseen": list(network.unseen)}} if network else {}),
            **({"folds": folds.identity()} if folds else {}),
        }


@dataclass(frozen=True)
class Evidence:
    """Out-of-sample probabilities by split but for those of folds, and predictions with features of every split."""

    probabilities: tuple[Probabilities, ...] = ()
    features: tuple[Predictions, ...] = ()


def open_network(checkpoint: Path, source: Source, unseen: Sequence[str], run: Run) -> Network:
    """Return the network of a checkpoint, which must have the classes of the records.

    `unseen` names the splits that it was not trained on; nothing means all but train. Raises ArtefactError for a
    network of other classes, an unknown split, and a split of these records that the network was trained on.
    """
    records = _records(source, f"--weights {checkpoint}")
    found = json.loads(run(("serve", "weights", "inspect", str(checkpoint), "--json"), True))
    known, expected = [wnid for wnid, _ in found["classes"]], source.wnids
    if known != expected:
        shared = min(len(known), len(expected))
        first = next((index for index in range(shared) if known[index] != expected[index]), shared)
        here, there = (wnids[first] if first < len(wnids) else "nothing" for wnids in (known, expected))
        raise ArtefactError(
            f"--weights {checkpoint}: a network of other classes ({len(known)}; the records have {len(expected)}); "
            f"class {first} is {here} there and {there} in the records; give one that was trained on these classes"
        )
    splits = _split_names(records)
    if unknown := [name for name in unseen if name not in splits]:
        raise ArtefactError(f"--unseen {unknown[0]}: no such split; the records have {', '.join(splits)}")
    trained_on = found["provenance"].get("records", {}).get("manifest_sha256")
    if TRAIN in unseen and trained_on == records.records.manifest_sha256:
        raise ArtefactError(
            f"--unseen {TRAIN}: {checkpoint} was trained on these records; pass --folds to judge the labels of {TRAIN}"
        )
    sha256 = sha256_json({name: value for name, value in found.items() if name != "path"})
    return Network(Path(found["path"]), sha256, tuple(unseen or [name for name in splits if name != TRAIN]))


def check_folds(folds: Folds, source: Source) -> None:
    """Raise ArtefactError for fewer than two rows of train for each fold, and for a folder."""
    records = _records(source, "--folds")
    entry = records.records.manifest.splits.get(TRAIN)
    if entry is None or entry.rows < 2 * folds.count:
        rows = entry.rows if entry else 0
        raise ArtefactError(f"--folds {folds.count}: train has only {rows} rows, at least two for each fold are needed")


def gather(source: Source, asked: Asked, out: Path, run: Run) -> Evidence:
    """Return what predictions and the network say; what is missing is computed into `out`.

    Raises what `run` raises, and ArtefactError.
    """
    probabilities: list[Probabilities] = list(asked.predictions)
    features: tuple[Predictions, ...] = ()
    if asked.network is not None:
        features = tuple(_predict_splits(_records(source, "--weights"), asked.network, out, run))
        probabilities += [each for each in features if each.split in asked.network.unseen]
    return Evidence(tuple(probabilities), features)


def _predict_splits(source: RecordsSource, network: Network, out: Path, run: Run) -> list[Predictions]:
    found = []
    for split in _split_names(source):
        folder = out / NETWORK_FOLDER / split
        extras = ["--features", "--logits"] if split in network.unseen else ["--features"]
        found.append(_predict(source, network.path, split, folder, extras, run))
    return found


def predict_folds(
    source: Source, folds: Folds, out: Path, run: Run, copies: Iterable[tuple[int, int]] = ()
) -> FoldedPredictions:
    """Return what networks say of the fold of train that each has not seen; what is missing is trained into `out`.

    `copies` are numbers of images that are copies of each other; those of train share a fold. Raises what `run`
    raises, and ArtefactError.
    """
    source = _records(source, "--folds")
    root = source.records.root
    config = _config(folds, root, out / FOLDS_FOLDER, run)
    sha256s = stored_sha256s(source.records.split(TRAIN))
    first = int(np.flatnonzero(pc.equal(source.rows["split"], TRAIN).to_numpy())[0])
    places = ((a - first, b - first) for a, b in copies)
    inside = [pair for pair in places if all(0 <= place < len(sha256s) for place in pair)]
    copy_of = group_copies((sha256s[a], sha256s[b]) for a, b in inside)
    settings = []
    if copy_of:
        settings = ["--set", f"data.copies={write_copies((out / FOLDS_FOLDER).resolve(), copy_of)}"]
    found = []
    for fold in range(1, folds.count + 1):
        folder = out / FOLDS_FOLDER / f"{fold}-of-{folds.count}"
        trained, scored = folder / "run", folder / "predictions"
        if not is_finished(trained):
            leave_out = f"data.leave_out={fold}/{folds.count}"
            command = ("train", "run", config, "--records", str(root), "--out", str(trained), "--set", leave_out)
            run((*command, *settings), False)
        found.append(_predict(source, trained, TRAIN, scored, ["--logits"], run))
    return FoldedPredictions(tuple(found), assign_folds(sha256s, folds.count, copy_of))


def _config(folds: Folds, root: Path, folder: Path, run: Run) -> str:
    """Return CONFIG of the trainings; auto is chosen once, so that all folds and a resumed audit have the same one."""
    if folds.config != AUTO:
        return folds.config
    path = folder / "config.toml"
    if not path.is_file():
        text = run(("train", "suggest", str(root), "--minutes", f"{folds.minutes:g}"), True)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    return str(path)


def _predict(
    source: RecordsSource, checkpoint: Path, split: str, folder: Path, extras: Sequence[str], run: Run
) -> Predictions:
    root = source.records.root
    if not is_finished(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        run(
            ("serve", "predict", str(checkpoint), str(root), "--split", split, "--out", str(folder), *extras),
            False,
        )
    needed = "logits" if "--logits" in extras else "features"
    return open_predictions(folder, source.records.manifest_sha256, [split], source.wnids, needed)


def _split_names(source: RecordsSource) -> list[str]:
    return [name for name, entry in source.records.manifest.splits.items() if entry.rows]


def _records(source: Source, option: str) -> RecordsSource:
    if not isinstance(source, RecordsSource):
        raise ArtefactError(f"{option}: a network examines RECORDS only; build records of the folder")
    return source
