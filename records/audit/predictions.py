"""PREDICTIONS of a split of RECORDS as probabilities, a part at a time. Needs no network and no MindSpore."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file, sha256_json
from convnext_imagenet.base.protocol import bookkeeping_name, file_damage, read_finished
from convnext_imagenet.records.audit.sources import RecordsSource, Source


@dataclass(frozen=True)
class Predictions:
    """Finished predictions with logits for all rows of one split of the records."""

    root: Path
    split: str
    sha256: str
    files: tuple[str, ...]

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield numbers of rows in the split, int64 (n,), and probabilities, float32 (n, classes), of each part."""
        for name in self.files:
            table = pq.read_table(self.root / name, columns=["sample_id", "logits"], partitioning=None)
            table = table.filter(pc.is_valid(table["logits"])).combine_chunks()
            numbers = table["sample_id"].to_numpy()
            if not len(numbers):
                continue
            logits = table["logits"].chunk(0).flatten().to_numpy().reshape(len(numbers), -1).astype(np.float64)
            logits -= logits.max(1, keepdims=True)
            probabilities = np.exp(logits)
            yield numbers, (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)


def open_predictions(root: Path, manifest_sha256: str, splits: list[str], wnids: list[str]) -> Predictions:
    """Return predictions of the records whose manifest has this digest.

    Raises ArtefactError when they are unfinished, damaged, of other inputs or of other classes, or have no logits.
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
    if "logits" not in provenance["extras"]:
        raise ArtefactError(
            f"{root}: without probabilities of all classes (no column `logits`); predict again with --logits"
        )
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
    table = pq.read_table(root / file, columns=["top1_index", "top1_wnid"], partitioning=None)
    for index, wnid in zip(table["top1_index"].to_pylist(), table["top1_wnid"].to_pylist(), strict=True):
        if index is not None and wnids[index] != wnid:
            raise ArtefactError(
                f"{root}: of a network with other classes: class {index} is {wnid} there and {wnids[index]} in the "
                f"records; predict with a network that was trained on these classes"
            )
