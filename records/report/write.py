"""`report.html` of a RECORDS directory, made from the tables beside its shards; opens no shard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from convnext_imagenet.base.files import write_atomically
from convnext_imagenet.records.index import IndexPart, read_columns
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.report.numbers import INDEX_COLUMNS, count
from convnext_imagenet.records.report.page import report_page

REPORT_FILE = "report.html"


def write_report(
    path: Path,
    manifest: Manifest,
    index: Path,
    parts: Sequence[IndexPart],
    quarantined: Sequence[Mapping[str, Any]],
) -> None:
    """Write the report; equal records give equal bytes.

    `index` is index.parquet, `parts` are the shards' tables with the pictures, and `quarantined` has one mapping
    (split, path, label, reason, detail) for each image that was not stored. Raises ArtefactError when a table cannot
    be read.
    """
    numbers = count(read_columns(index, INDEX_COLUMNS), list(manifest.splits))
    page = report_page(manifest, numbers, quarantined, read_thumbnails(parts))
    write_atomically(path, page.encode())


def read_thumbnails(parts: Sequence[IndexPart]) -> dict[int, list[bytes]]:
    """Return the pictures of each class index, by sample id. Raises ArtefactError when a table cannot be read."""
    numbered: list[tuple[int, int, bytes]] = []
    for part in parts:
        table = read_columns(part.path, ("label", "sample_id", "thumbnail"))
        for row in table.filter(pc.is_valid(table["thumbnail"])).to_pylist():
            numbered.append((row["label"], row["sample_id"], row["thumbnail"]))
    pictures: dict[int, list[bytes]] = {}
    for label, _, picture in sorted(numbered):
        pictures.setdefault(label, []).append(picture)
    return pictures
