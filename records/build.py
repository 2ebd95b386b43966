"""The last step of writing RECORDS: shards that have receipts become a finished directory. `reader.py` is its reader.

Shards are published one by one, see `base.protocol`. The files here are made only from receipts and tables, so they are
the same however often an ingest was stopped. This file opens no shard and does not know where images come from.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext_imagenet.base import protocol
from convnext_imagenet.base.files import sha256_file, write_atomically
from convnext_imagenet.records.checked import note_as_written
from convnext_imagenet.records.index import INDEX_FILE, IndexPart, shard_index_path, write_index
from convnext_imagenet.records.manifest import ClassEntry, Manifest, SplitEntry
from convnext_imagenet.records.report.write import REPORT_FILE, write_report
from convnext_imagenet.records.schema import QUARANTINE_FILE, SCHEMA_VERSION

SUMMARY_FILES = (QUARANTINE_FILE, INDEX_FILE, REPORT_FILE)


def make_manifest(
    plan_id: str,
    classes: tuple[ClassEntry, ...],
    splits: Mapping[str, SplitEntry],
    source: Mapping[str, Any],
    seed: int = 0,
    versions: Mapping[str, str] | None = None,
) -> Manifest:
    """Return the manifest of shards that are all published; `write_summary_files` completes it."""
    return Manifest(SCHEMA_VERSION, plan_id, classes, dict(splits), dict(source), seed, dict(versions or {}))


def write_summary_files(
    root: Path, manifest: Manifest, quarantine_table: bytes, quarantined: Sequence[Mapping[str, Any]]
) -> Manifest:
    """Write quarantine.parquet, index.parquet and report.html; return the manifest with the SHA-256 of each.

    `quarantine_table` is the Parquet file of the images that are not stored, `quarantined` has the same rows for the
    report. Raises ArtefactError when the table of a shard cannot be read.
    """
    parts = [
        IndexPart(name, shard.name, shard_index_path(root / name / shard.name))
        for name, split in manifest.splits.items()
        for shard in split.shards
    ]
    write_atomically(root / QUARANTINE_FILE, quarantine_table)
    write_index(root / INDEX_FILE, parts, manifest.classes, manifest.source.get("relabelled"))
    write_report(root / REPORT_FILE, manifest, root / INDEX_FILE, parts, quarantined)
    return dataclasses.replace(manifest, files={name: sha256_file(root / name) for name in SUMMARY_FILES})


def mark_finished(root: Path, manifest: Manifest) -> None:
    """Write manifest.json and then `_SUCCESS`: from now on `Records.open` accepts the directory."""
    note_as_written(root, manifest)
    protocol.finish(root, "records", manifest.to_json())
