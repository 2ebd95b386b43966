"""The files beside the splits that describe finished shards: quarantine table, index and report.

Made from receipts and the tables beside the shards; no shard is opened. Equal shards give equal bytes.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from convnext_imagenet.ingest.quarantine import QUARANTINE_FILE, Quarantined, table_bytes
from convnext_imagenet.records.files import sha256_file, write_atomically
from convnext_imagenet.records.index import INDEX_FILE, IndexPart, shard_index_path, write_index
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.report.write import REPORT_FILE, write_report


def write_closing_files(out: Path, manifest: Manifest, bad: Sequence[Quarantined]) -> dict[str, str]:
    """Write the three files into `out`; returns the SHA-256 of each by its name."""
    parts = [
        IndexPart(name, shard.name, shard_index_path(out / name / shard.name))
        for name, split in manifest.splits.items()
        for shard in split.shards
    ]
    write_atomically(out / QUARANTINE_FILE, table_bytes(bad))
    write_index(out / INDEX_FILE, parts, manifest.classes)
    write_report(out / REPORT_FILE, manifest, out / INDEX_FILE, parts, [asdict(entry) for entry in sorted(bad)])
    return {name: sha256_file(out / name) for name in (QUARANTINE_FILE, INDEX_FILE, REPORT_FILE)}
