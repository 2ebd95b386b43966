"""PREDICTIONS of a split of RECORDS as probabilities, a part at a time. Needs no network and no MindSpore."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file, sha256_json
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.base.protocol import bookkeeping_name, file_damage, read_finished
from convnext_imagenet.records.audit.sources import RecordsSource, Source


class Probabilities(Protocol):
    """Probabilities of all classes for the rows of one split."""

    @property
    def split(self) -> str:
        """Return the name of the split."""

    @property
    def sha256(self) -> str:
        """Return what identifies the probabilities."""

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of rows in the split, int64 (n,), and probabilities, float32 (n, classes), of each part."""


@dataclass(frozen=True)
class Predictions:
    """Finished predictions for all rows of one split of the records."""

    root: Path
    split: str
    sha256: str
    files: tuple[str, ...]

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of rows in the split, int64 (n,), and probabilities, float32 (n, classes), of each part."""
        for numbers, values in self._column("logits"):
            logits = values.astype(np.float64)
            logits -= logits.max(1, keepdims=True)
            probabilities = np.exp(logits)
            yield numbers, (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)

    def features(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of rows in the split, int64 (n,), and features, float32 (n, width), of each part."""
        yield from self._column("features")

    def _column(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for file in self.files:
            table = read_table(self.root / file, ["sample_id", name])
            table = table.filter(pc.is_valid(table[name])).combine_chunks()
            if table.num_rows:
                numbers = table["sample_id"].to_numpy()
                yield numbers, table[name].chunk(0).flatten().to_numpy().reshape(len(numbers), -1)


@dataclass(frozen=True)
class FoldedPredictions:
    """Predictions of a split by one network for each fold, 1 and so on, which was trained without that fold.

    `fold` is that of each row, int64 (rows,). A row gets the probabilities of the network that has not seen it.
    """

    by_fold: tuple[Predictions, ...]
    fold: np.ndarray

    @property
    def split(self) -> str:
        """Return the name of the split."""
        return self.by_fold[0].split

    @property
    def sha256(self) -> str:
        """Return the digest of all predictions."""
        return sha256_json([each.sha256 for each in self.by_fold])

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of rows in the split, int64 (n,), and probabilities, float32 (n, classes), of each part."""
        for fold, predictions in enumerate(self.by_fold, 1):
            for numbers, probabilities in predictions.parts():
                is_own = self.fold[numbers] == fold
                if is_own.any():
                    yield numbers[is_own], probabilities[is_own]


def open_predictions(
    root: Path, manifest_sha256: str, splits: list[str], wnids: list[str], needed: str = "logits"
) -> Predictions:
    """Return predictions of the records whose manifest has this digest; `needed` is a column that they must have.

    Raises ArtefactError when they are unfinished, damaged, of other inputs or of other classes, or lack the column.
    """
    manifest = read_finished(root, "predictions")
    provenance = manifest["provenance"]
    digests = {sha256_json({"manifest_sha256": manifest_sha256, "split": split}): split for split in splits}
    split = digests.get(provenance["inputs"]["sha256"])
    if split is None:
        raise ArtefactError(
            f"{root}: predictions of other inputs than {' or '.join(splits)} of these records; run `convnext-serve "
            f"predict CHECKPOINT RECORDS --split SPLIT --logits` on them"
        )
    if needed not in provenance["extras"]:
        what = "probabilities of all classes" if needed == "logits" else needed
        raise ArtefactError(f"{root}: without {what} (no column `{needed}`); predict again with --{needed}")
    for file in manifest["parts"]:
        if damage := file_damage(root, file, deep=True):
            raise ArtefactError(f"{damage}; restore it from a copy, or predict again")
    files = tuple(file["name"] for file in manifest["parts"])
    _check_classes(root, provenance, files[0], wnids)
    return Predictions(root, split, sha256_file(root / bookkeeping_name("predictions", "manifest.json")), files)


def open_predictions_of(source: Source, root: Path) -> Predictions:
    """Return predictions of a source that is RECORDS. Raises ArtefactError for a folder, and as `open_predictions`."""
    if not isinstance(source, RecordsSource):
        raise ArtefactError(f"--predictions {root}: labels are examined in RECORDS only; build records of the folder")
    splits = [name for name, entry in source.records.manifest.splits.items() if entry.rows]
    return open_predictions(root, source.records.manifest_sha256, splits, source.wnids)


def _check_classes(root: Path, provenance: dict[str, Any], file: str, wnids: list[str]) -> None:
    count = provenance["classes"]["count"]
    if count != len(wnids):
        raise ArtefactError(
            f"{root}: of a network with {count} classes, but the records have {len(wnids)}; "
            f"predict with a network that was trained on these classes"
        )
    table = read_table(root / file, ["top1_index", "top1_wnid"])
    for index, wnid in zip(table["top1_index"].to_pylist(), table["top1_wnid"].to_pylist(), strict=True):
        if index is not None and wnids[index] != wnid:
            raise ArtefactError(
                f"{root}: of a network with other classes: class {index} is {wnid} there and {wnids[index]} in the "
                f"records; predict with a network that was trained on these classes"
            )
