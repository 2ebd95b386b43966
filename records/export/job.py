"""From RECORDS to a directory in another format: one unit for each shard, resumable, with the same bytes every time.

The directory follows the protocol of `base/protocol.py`. Every image is compared with its SHA-256 when it is read.
"""

import hashlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import remove_leftovers, sync_folder, write_atomically
from convnext_imagenet.records.export.card import card_text, croissant_text
from convnext_imagenet.records.export.checksums import ENDING, checksum_lines, read_checksums
from convnext_imagenet.records.export.formats import FORMATS, ExportRow, folder_name
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.places import Place, place_of
from convnext_imagenet.records.row_source import RowSource, open_records

EXPORT_VERSION = 3  # raise when the same records become other bytes
KIND = "export"
_RECEIPTS = "_receipts"  # of the folder format, whose images have folders of their own


@dataclass(frozen=True)
class ExportOutcome:
    """The rows by split of a finished export, and how many shards this call wrote; 0 if all were there before."""

    rows: dict[str, int]
    written: int


@dataclass(frozen=True)
class _Unit:
    """One shard: its rows in the split, from `start` on, and the names that it gets."""

    split: str
    start: int
    rows: int
    name: str


def export_records(
    records: str | Path, out: Path, format_name: str, on_progress: Callable[[int], None] = lambda _: None
) -> ExportOutcome:
    """Write all rows of RECORDS, at a path or a URI, to the directory `out` in a format of `FORMATS`, or resume it.

    A shard of which a file is missing or has another size is written again. `on_progress` gets the number of rows
    written or found. Raises ArtefactError for damaged records, for an `out` of another export or inside of RECORDS, and
    for a key that the format cannot hold.
    """
    place = place_of(records)
    manifest = place.manifest()
    if out.resolve().is_relative_to(Path(str(place)).resolve()):
        raise ArtefactError(f"--out {out}: is inside the records {place}; choose a directory outside of them")
    plan = _plan(place, format_name)
    with protocol.exclusive(out):
        plan_id = protocol.begin(out, KIND, plan)
        job = _Job(manifest, out, format_name, plan_id)
        if not protocol.is_finished(out):
            shutil.rmtree(protocol.staging(out))
            remove_leftovers(out)
            remove_leftovers(job.folder())
        written = job.write(records, on_progress)
        if written or not protocol.is_finished(out):
            job.finish()
    return ExportOutcome({name: split.rows for name, split in manifest.splits.items()}, written)


def _plan(place: Place, format_name: str) -> dict[str, Any]:
    plan = {
        "records": hashlib.sha256(place.read("manifest.json")).hexdigest(),
        "format": format_name,
        "rules": {"export": EXPORT_VERSION},
    }
    if format_name == "parquet":
        plan["versions"] = {"pyarrow": importlib.metadata.version("pyarrow")}
    return plan


@dataclass(frozen=True)
class _Job:
    manifest: Manifest
    out: Path
    format_name: str
    plan_id: str

    def units(self) -> Iterator[_Unit]:
        """Yield the shards of all splits, with rows counted from the start of the split."""
        for name, split in self.manifest.splits.items():
            start = 0
            for number, shard in enumerate(split.shards):
                yield _Unit(name, start, shard.rows, f"{name}-{number:05d}-of-{len(split.shards):05d}")
                start += shard.rows

    def write(self, records: str | Path, on_progress: Callable[[int], None]) -> int:
        """Write the shards without a receipt; return how many."""
        written, sources = 0, dict[str, RowSource]()
        for unit in self.units():
            if self._receipt(unit) is None:
                protocol.reopen(self.out)
                if unit.split not in sources:
                    sources[unit.split] = open_records(records, unit.split)
                self._write_unit(unit, sources[unit.split], on_progress)
                written += 1
            else:
                on_progress(unit.rows)
        return written

    def finish(self) -> None:
        """Write data card, metadata, manifest and the mark."""
        receipts = [(unit, self._receipt(unit) or {}) for unit in self.units()]
        files = [
            file | {"name": f"{self.folder().name}/{file['name']}", "split": unit.split}
            for unit, receipt in receipts
            for file in receipt["files"]
        ]
        write_atomically(self.out / "README.md", card_text(self.manifest, self.format_name).encode())
        if self.format_name == "parquet":
            write_atomically(self.out / "croissant.json", croissant_text(self.manifest, files).encode())
        rows = {name: split.rows for name, split in self.manifest.splits.items()}
        facts = {"plan_id": self.plan_id, "format": self.format_name, "rows": rows, "files": files}
        protocol.finish(self.out, KIND, facts)

    def _receipt(self, unit: _Unit) -> dict[str, Any] | None:
        """Return the receipt of a shard, None if a file is missing or has another size."""
        receipt = protocol.read_receipt(self.folder(), f"_{unit.name}", self.plan_id)
        if receipt is None or self.format_name != "folder":
            return receipt
        images = read_checksums(self.folder() / receipt["files"][0]["name"])
        return receipt if _bytes_of(self.out, images) == receipt["facts"]["image_bytes"] else None

    def folder(self) -> Path:
        """Return the folder of the receipts."""
        return self.out / (_RECEIPTS if self.format_name == "folder" else "data")

    def _write_unit(self, unit: _Unit, source: RowSource, on_progress: Callable[[int], None]) -> None:
        staging = protocol.staging(self.out)
        chosen = FORMATS[self.format_name]
        rows = _rows(source, unit, on_progress)
        facts = {"rows": unit.rows}
        if chosen.ending:
            path = staging / f"{unit.name}.{chosen.ending}"
            chosen.write(path, rows, self.manifest)
        else:
            images = staging / unit.split
            chosen.write(images, rows, self.manifest)
            sizes = _move_all(images, self.out / unit.split)
            path = staging / f"{unit.name}.{ENDING}"
            path.write_text(checksum_lines(self._named_digests(unit, source)))
            facts["image_bytes"] = sum(sizes)
        protocol.publish([path], self.folder(), f"_{unit.name}", self.plan_id, facts)
        shutil.rmtree(staging)

    def _named_digests(self, unit: _Unit, source: RowSource) -> Iterator[tuple[str, str]]:
        """Yield the path below `out` and the SHA-256 of each image of a shard."""
        for row in range(unit.start, unit.start + unit.rows):
            name = folder_name(source.keys[row], int(source.labels[row]), self.manifest)
            yield f"{unit.split}/{name}", source.sha256s[row]


def _rows(source: RowSource, unit: _Unit, on_progress: Callable[[int], None]) -> Iterator[ExportRow]:
    for row in range(unit.start, unit.start + unit.rows):
        image, label = source[row]
        yield ExportRow(source.keys[row], label, image)
        on_progress(1)


def _move_all(staging: Path, folder: Path) -> list[int]:
    """Move all files below `staging` to the same paths below `folder`, all of them on disk; return their sizes."""
    os.sync()  # one call for thousands of small files
    sizes, folders = [], {folder}
    for path in sorted(path for path in staging.rglob("*") if path.is_file()):
        target = folder / path.relative_to(staging)
        if target.parent not in folders or not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            folders.add(target.parent)
        sizes.append(path.stat().st_size)
        path.replace(target)
    for changed in sorted(folders):
        sync_folder(changed)
    return sizes


def _bytes_of(out: Path, images: Iterable[tuple[str, str]]) -> int:
    """Return the size of all images below `out`, -1 when one is missing."""
    try:
        return sum((out / name).stat().st_size for name, _ in images)
    except FileNotFoundError:
        return -1
