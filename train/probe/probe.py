"""A frozen network's features -> heads: linear by a grid of strengths, nearest neighbours, perceptron; by label share.

RUN/features/{train,val} are PREDICTIONS directories, each row exactly once and resumable. From them come
probe.safetensors (the best linear head on its network, an ordinary checkpoint), confusion.parquet, report.html and,
last, report.json. Val chooses nothing: a tenth of train is held out to choose strength, decay and k.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.files import write_atomically, write_json
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.base.wording import as_word
from convnext_imagenet.model.card import ModelCard, inherited_licence
from convnext_imagenet.model.weights import save_weights
from convnext_imagenet.records.keyed_random import keyed_rng
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.serve.predict.job import LocalRunner, open_job
from convnext_imagenet.serve.settings import PredictOptions
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.probe.logistic import LinearHead, fit_logistic
from convnext_imagenet.train.probe.mlp import Mlp, fit_mlp
from convnext_imagenet.train.probe.neighbours import neighbour_votes
from convnext_imagenet.train.probe.page import probe_page

STRENGTHS = tuple(10.0**power for power in range(0, -8, -1))  # from strong to weak: each starts from the one before
DECAYS = (1.0, 0.1, 0.01)  # AdamW's, of the perceptron
NEIGHBOURS = (1, 5, 10, 20, 50, 100, 200)
FRACTIONS = (0.01, 0.1, 1.0)
_HELD_OUT = 10  # every tenth row of a class
CHECKPOINT, REPORT, PAGE = "probe.safetensors", "report.json", "report.html"


@dataclass(frozen=True)
class Features:
    """Features (N, C), float32, labels and sample ids (N,) of a split, in the order of the rows."""

    values: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Features":
        """Return the chosen rows."""
        return Features(self.values[chosen], self.labels[chosen], self.sample_ids[chosen])


def write_features(
    checkpoint: Checkpoint,
    records: Path,
    split: str,
    out: Path,
    options: PredictOptions,
    on_progress: Callable[[int], None],
    is_stopped: Callable[[], bool],
) -> Features:
    """Write the features of a split as PREDICTIONS, or what is missing of them, and return them.

    Labels are the records' class indices. Raises TrainError for a row that cannot be decoded, and what `open_job` and
    its run raise.
    """
    bare = without_head(checkpoint)
    with open_job(bare, open_split(records, split, []), out, options) as job:
        summary = job.run(on_progress, LocalRunner(is_stopped))
    if summary.error_rows:
        raise TrainError(
            f"{out}: {summary.error_rows} rows could not be decoded; run `convnext-records verify {as_word(records)}`"
        )
    tables = [read_table(part, ["sample_id", "label", "features"]) for part in sorted(out.glob("part-*.parquet"))]
    table = pa.concat_tables(tables).combine_chunks()
    width = bare.card.config.dims[-1]
    values = table["features"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    return Features(values, table["label"].to_numpy().astype(int), table["sample_id"].to_numpy())


def without_head(checkpoint: Checkpoint) -> Checkpoint:
    """Return the same weights as a network of features."""
    config = checkpoint.card.config.without_head
    arrays = {name: array for name, array in checkpoint.arrays.items() if not name.startswith("head.")}
    return dataclasses.replace(
        checkpoint, card=dataclasses.replace(checkpoint.card, config=config, classes=()), arrays=arrays
    )


def probe(
    checkpoint: Checkpoint,
    records: Records,
    train: Features,
    val: Features,
    out: Path,
    seed: int,
    fractions: Sequence[float] = FRACTIONS,
    hidden: int = 0,
    feature_seconds: float = 0.0,
    on_line: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Fit all heads, write checkpoint, tables and report, and return the report.

    `hidden` is the number of hidden units of a perceptron, 0 for none. `feature_seconds` is reported. Raises TrainError
    for records of one class, or a class without two rows of train.
    """
    begun = time.monotonic()
    classes = len(records.classes)
    counts = np.bincount(train.labels, minlength=classes)
    if classes < 2 or counts.min() < 2:
        rarest = records.classes[int(counts.argmin())].wnid
        raise TrainError(
            f"a probe needs two classes with two rows of train each, but {rarest} has {counts.min()}; add images"
        )
    rows: dict[str, list[dict[str, Any]]] = {}
    head = None
    for fraction in fractions:
        part = train.rows(share_of_rows(train, fraction, seed))
        head, measured = _fit_share(part, val, classes, hidden, seed)
        for kind, row in measured.items():
            rows.setdefault(kind, []).append({"fraction": fraction, **row})
            short = "" if row.get("is_optimal", True) else ", stopped short of its optimum"
            on_line(f"{kind}, {fraction:.0%} of the labels: top-1 {row['top1_correct']}/{len(val.labels)}{short}")
    if head is None:
        raise TrainError("no share of the labels is given; pass --fraction 1")
    report = {
        "weights": {"file": checkpoint.path.name, "sha256": checkpoint.sha256},
        "records": records.manifest_sha256,
        "rows": {"train": len(train.labels), "val": len(val.labels)},
        "seed": seed,
        **rows,
    }
    _save_checkpoint(checkpoint, records, head, out, report)
    seconds = {"features": round(feature_seconds, 2), "heads": round(time.monotonic() - begun, 2)}
    report["seconds"] = seconds
    _write(records, head, val, out, report)
    return report


def _fit_share(
    part: Features, val: Features, classes: int, hidden: int, seed: int
) -> tuple[LinearHead, dict[str, dict[str, Any]]]:
    """Return the linear head of a share of the labels, and by kind of head what it was and got right on val."""
    began = time.monotonic()
    head, tried = choose_head(part, classes)
    facts = {"strength": _best(tried), "tried": tried, "is_optimal": head.is_optimal, "loss": head.loss}
    found = {"linear": _measured(part, val, head.logits(val.values).argmax(axis=1), began) | facts}
    began = time.monotonic()
    k, answers = choose_neighbours(part, val, classes)
    found["neighbours"] = _measured(part, val, answers, began) | {"k": k}
    if hidden:
        began = time.monotonic()
        mlp, decay = choose_mlp(part, classes, hidden, seed)
        answers = mlp.logits(val.values).argmax(axis=1)
        found["mlp"] = _measured(part, val, answers, began) | {"hidden": hidden, "decay": decay}
    return head, found


def _measured(part: Features, val: Features, answers: np.ndarray, began: float) -> dict[str, Any]:
    right, seconds = int((answers == val.labels).sum()), round(time.monotonic() - began, 2)
    return {"rows": len(part.labels), "top1_correct": right, "seconds": seconds}


def share_of_rows(features: Features, fraction: float, seed: int) -> np.ndarray:
    """Return the rows of a share of the labels: of each class the share, rounded, at least two; drawn by sample id."""
    if fraction >= 1:
        return np.arange(len(features.labels))
    order = np.argsort(
        [keyed_rng(seed, "probe", int(sample_id)).random() for sample_id in features.sample_ids],
        kind="stable",
    )
    chosen = []
    for label in np.unique(features.labels):
        own = order[features.labels[order] == label]
        chosen.append(own[: max(2, round(fraction * len(own)))])
    return np.sort(np.concatenate(chosen))


def choose_head(features: Features, classes: int) -> tuple[LinearHead, list[dict[str, Any]]]:
    """Return the linear head of the best strength, fitted to all rows, and what each strength gave.

    A tenth of each class, at least one row, is held out to choose; ties go to the stronger penalty.
    """
    held = _held_out(features)
    fit, check = features.rows(~held), features.rows(held)
    tried: list[dict[str, Any]] = []
    head = None
    for strength in STRENGTHS:
        head = fit_logistic(fit.values, fit.labels, classes, strength, head)
        right = int((head.logits(check.values).argmax(axis=1) == check.labels).sum())
        tried.append({"strength": strength, "held_out": len(check.labels), "correct": right, "steps": head.steps})
    return fit_logistic(features.values, features.labels, classes, _best(tried), head), tried


def choose_mlp(features: Features, classes: int, hidden: int, seed: int) -> tuple[Mlp, float]:
    """Return the perceptron of the best decay, fitted to all rows, and this decay; ties go to the stronger."""
    held = _held_out(features)
    fit, check = features.rows(~held), features.rows(held)

    def fitted(part: Features, decay: float) -> Mlp:
        return fit_mlp(part.values, part.labels, classes, hidden, decay, keyed_rng(seed, "probe mlp", 0))

    right = {decay: fitted(fit, decay).logits(check.values).argmax(axis=1) == check.labels for decay in DECAYS}
    best = max(DECAYS, key=lambda decay: (int(right[decay].sum()), decay))
    return fitted(features, best), best


def choose_neighbours(train: Features, val: Features, classes: int) -> tuple[int, np.ndarray]:
    """Return the k that is best on the held-out tenth of train, and the answers for val with all of train."""
    held = _held_out(train)
    fit, check = train.rows(~held), train.rows(held)
    votes = neighbour_votes(fit.values, fit.labels, check.values, classes, NEIGHBOURS)
    chosen = max(votes, key=lambda k: (int((votes[k] == check.labels).sum()), -k))
    return chosen, neighbour_votes(train.values, train.labels, val.values, classes, [chosen])[chosen]


def _held_out(features: Features) -> np.ndarray:
    """Return which rows are held out, bool: of each class every tenth by sample id, beginning with the first."""
    held = np.zeros(len(features.labels), bool)
    order = np.argsort(features.sample_ids, kind="stable")
    for label in np.unique(features.labels):
        held[order[features.labels[order] == label][::_HELD_OUT]] = True
    return held


def _best(tried: Sequence[dict[str, Any]]) -> float:
    return float(max(tried, key=lambda row: (row["correct"], row["strength"]))["strength"])


def _save_checkpoint(
    checkpoint: Checkpoint, records: Records, head: LinearHead, out: Path, report: dict[str, Any]
) -> None:
    classes = tuple((entry.wnid, entry.name) for entry in records.classes)
    config = dataclasses.replace(checkpoint.card.config.without_head, num_classes=len(classes))
    provenance = {"probe": {name: report[name] for name in ("weights", "records", "rows", "seed")}}
    provenance["probe"] |= {"strength": report["linear"][-1]["strength"]}
    card = ModelCard(config, classes, checkpoint.card.transform, provenance | inherited_licence(checkpoint.card))
    weights = {"head.weight": head.weight.astype(np.float32), "head.bias": head.bias.astype(np.float32)}
    save_weights(out / CHECKPOINT, {**without_head(checkpoint).arrays, **weights}, card)


def _write(records: Records, head: LinearHead, val: Features, out: Path, report: dict[str, Any]) -> None:
    names = [entry.name.split(",")[0].strip() or entry.wnid for entry in records.classes]
    confusion_KK = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion_KK, (val.labels, head.logits(val.values).argmax(axis=1)), 1)
    truths, guesses = np.nonzero(confusion_KK * ~np.eye(len(names), dtype=bool))
    order = np.argsort(-confusion_KK[truths, guesses], kind="stable")
    truths, guesses = truths[order], guesses[order]
    table = pa.table(
        {
            "truth": [records.classes[index].name for index in truths],
            "predicted": [records.classes[index].name for index in guesses],
            "images": pa.array(confusion_KK[truths, guesses], pa.int64()),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(out / "confusion.parquet", sink.getvalue().to_pybytes())
    write_atomically(out / PAGE, probe_page(report, confusion_KK, names).encode())
    write_json(out / REPORT, report)
