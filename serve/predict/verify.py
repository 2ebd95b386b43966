"""Checks that a PREDICTIONS directory is what its manifest says: one row per input, in order, all bytes as recorded."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.protocol import file_damage, read_finished, read_receipt
from convnext_imagenet.serve.predict.schema import METADATA_KEY, part_ranges, part_unit


@dataclass(frozen=True)
class Verification:
    """The number of rows read, and every problem found, one line each."""

    rows: int
    problems: tuple[str, ...]


def verify_predictions(root: Path, on_progress: Callable[[int], None] = lambda rows: None) -> Verification:
    """Compare hashes, receipts, row counts, numbers of inputs, statuses and provenance with the manifest.

    `on_progress` gets the rows of each part. Raises ArtefactError for a directory that is not finished.
    """
    manifest = read_finished(root, "predictions")
    problems: list[str] = []
    statuses: Counter[str] = Counter()
    rows = 0
    ranges = part_ranges(manifest["provenance"]["inputs"]["count"], **manifest["provenance"]["parts"])
    for index, (file, numbers) in enumerate(zip(manifest["parts"], ranges, strict=False)):
        damage = file_damage(root, file, deep=True)
        if damage is None:
            damage = _receipt_damage(root, index, file, manifest["plan_id"])
        if damage is not None:
            problems.append(damage)
            continue
        table = _read(root / file["name"], manifest["provenance"], numbers, problems)
        statuses.update(table["status"].to_pylist())
        rows += len(table)
        on_progress(len(table))
    if not problems:
        problems += _count_problems(root, manifest, rows, statuses)
    strangers = set(root.rglob("*.parquet")) - {root / file["name"] for file in manifest["parts"]}
    problems += [f"{path}: not a part that the manifest lists" for path in sorted(strangers)]
    return Verification(rows, tuple(problems))


def _receipt_damage(root: Path, index: int, file: dict[str, Any], plan_id: str) -> str | None:
    receipt = read_receipt(root, part_unit(index), plan_id)
    if receipt is None:
        return f"{root / file['name']}: its receipt is missing, damaged or from another plan"
    return None if receipt["files"] == [file] else f"{root / file['name']}: its receipt contradicts the manifest"


def _read(path: Path, provenance: Any, numbers: range, problems: list[str]) -> pa.Table:
    file = pq.ParquetFile(path, page_checksum_verification=True)
    table = file.read(["sample_id", "status"])
    metadata = file.schema_arrow.metadata or {}
    if json.loads(metadata.get(METADATA_KEY.encode(), b"null")) != provenance:
        problems.append(f"{path}: its provenance differs from the manifest's")
    if table["sample_id"].to_pylist() != list(numbers):
        problems.append(f"{path}: its rows are not inputs {numbers.start} to {numbers.stop - 1} in order")
    return table


def _count_problems(root: Path, manifest: dict[str, Any], rows: int, statuses: Counter[str]) -> list[str]:
    inputs = manifest["provenance"]["inputs"]["count"]
    problems = []
    if not rows == manifest["rows"] == inputs:
        problems.append(f"{root}: holds {rows} rows, the manifest lists {manifest['rows']} rows of {inputs} inputs")
    if dict(statuses) != manifest["statuses"]:
        problems.append(f"{root}: the statuses are {dict(statuses)}, the manifest lists {manifest['statuses']}")
    return problems
