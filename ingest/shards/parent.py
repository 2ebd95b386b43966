"""The records that new images are added to: what of them must not differ, and how their shards are taken over.

Their shards become shards of the new records as hard links: nothing is read or written but receipts. Knows nothing of
the new images.
"""

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from convnext_imagenet.base.files import read_json, sha256_file, sync_folder, write_json
from convnext_imagenet.base.protocol import read_finished, read_receipt
from convnext_imagenet.base.stores import local_reader
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.records.checked import find_damage
from convnext_imagenet.records.damage import planned_units
from convnext_imagenet.records.index import INDEX_FILE, read_columns
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.mindrecord_file import layout_of
from convnext_imagenet.records.schema import QUARANTINE_FILE

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


@dataclass(frozen=True)
class Parent:
    """Finished records: `units` are split and file name of each planned shard, in order."""

    root: Path
    manifest: Manifest
    plan: Mapping[str, Any]
    plan_id: str
    manifest_sha256: str
    units: tuple[tuple[str, str], ...]

    @property
    def shards(self) -> dict[str, list[str]]:
        """The file names of the shards by split, those without a stored image included."""
        return {name: [shard for split, shard in self.units if split == name] for name in self.manifest.splits}

    @property
    def identity(self) -> dict[str, str]:
        """What identifies these records in plan and manifest of others."""
        return {"manifest_sha256": self.manifest_sha256, "plan_id": self.plan_id}

    @cached_property
    def layouts(self) -> dict[str, tuple[int, int]]:
        """The sizes of header and pages in bytes by split: MindRecord reads only files together that share them."""
        return {
            name: layout_of(split.shards[0].name, local_reader(self.root / name / split.shards[0].name))
            for name, split in self.manifest.splits.items()
        }

    def images(self, split: str) -> int:
        """Return the number of images of a split, those in quarantine included: its next sample id."""
        entry = self.manifest.splits[split]
        return entry.rows + entry.quarantined

    def known(self, split: str) -> dict[str, tuple[int, int]]:
        """Return label and size in bytes of each stored image by key; both -1 for an image in quarantine."""
        rows = read_columns(self.root / INDEX_FILE, ("split", "key", "label", "bytes")).to_pylist()
        stored = {row["key"]: (row["label"], row["bytes"]) for row in rows if row["split"] == split}
        bad = pq.read_table(self.root / QUARANTINE_FILE, columns=["split", "key"], partitioning=None).to_pylist()
        return {row["key"]: (-1, -1) for row in bad if row["split"] == split} | stored

    def missing_in(self, out: Path, plan_id: str) -> list[tuple[str, str]]:
        """Return the shards that `out` lacks."""
        return [unit for unit in self.units if read_receipt(out / unit[0], Path(unit[1]).stem, plan_id) is None]

    def receipts_in(self, out: Path, plan_id: str) -> dict[str, list[dict[str, Any]]]:
        """Return the receipts of the inherited shards by split. Raises IngestError when one is missing."""
        receipts: dict[str, list[dict[str, Any]]] = {name: [] for name in self.manifest.splits}
        for split, shard in self.units:
            if (receipt := read_receipt(out / split, Path(shard).stem, plan_id)) is None:
                raise IngestError(f"{out / split / shard}: missing; run the same command again to link it")
            receipts[split].append(receipt)
        return receipts

    def link(self, split: str, shard: str, out: Path, plan_id: str) -> None:
        """Give `out` a shard of these records as hard links, or as a copy on another file system, then its receipt.

        Raises IngestError when a copy is not what the receipt says.
        """
        folder, unit = out / split, Path(shard).stem
        receipt = read_json(self.root / split / f"{unit}.json")
        folder.mkdir(parents=True, exist_ok=True)
        for file in receipt["files"]:
            _link_or_copy(self.root / split / file["name"], folder / file["name"], file)
        sync_folder(folder)
        write_json(folder / f"{unit}.json", receipt | {"plan_id": plan_id})


def open_parent(root: Path) -> Parent:
    """Return finished records, every byte of which is compared with its SHA-256 or was before and has not changed.

    Raises ArtefactError when they are unfinished or damaged.
    """
    manifest = Manifest.from_json(read_finished(root, "records"))
    if damage := find_damage(root, manifest, deep=True):
        raise IngestError(f"--onto {root}: {damage[0]} ({len(damage)} damaged in total); repair it first")
    for name, digest in manifest.files.items():
        if not (root / name).is_file() or sha256_file(root / name) != digest:
            raise IngestError(f"--onto {root}: {name} is missing or has changed; run `convnext-records repair {root}`")
    plan = read_json(root / "plan.json")["plan"]
    units = tuple(planned_units(plan))
    return Parent(root.resolve(), manifest, plan, manifest.plan_id, sha256_file(root / "manifest.json"), units)


def refuse_other_rules(parent: Parent, seed: int, treatment: Mapping[str, Any], rules: Mapping[str, int]) -> None:
    """Raise IngestError when new images would be checked, treated or shuffled otherwise than the stored."""
    _refuse_others(parent, {"seed": seed, "treatment": treatment, "rules": rules}, parent.plan)


def refuse_other_labels(parent: Parent, source: Mapping[str, Any]) -> None:
    """Raise IngestError when the labels of new images were verified otherwise than those of the stored."""
    names = ("verified", "devkit_sha256", "kaggle_sha256")
    _refuse_others(parent, {name: source[name] for name in names}, parent.plan["source"])


def _refuse_others(parent: Parent, found: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if value != stored[name]:
            raise IngestError(
                f"--onto {parent.root}: its {name} is {stored[name]}, but here it is {value}; "
                f"{_WAYS_OUT.get(name, 'pass the same devkit and options')}, or build all images again, without --onto"
            )


_WAYS_OUT = {
    "seed": "pass the same --seed",
    "treatment": "pass the same --max-side, --convert, --quality, --accept-warnings, --image-timeout, --image-memory",
    "rules": "add the images with the version that wrote it",
}


def _link_or_copy(source: Path, target: Path, file: Mapping[str, Any]) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.copyfile(source, temporary)
        if sha256_file(temporary) != file["sha256"]:
            raise IngestError(f"{source}: changed while it was copied; run the same command again") from None
        with temporary.open("rb") as copy:
            os.fsync(copy.fileno())
        temporary.replace(target)


def new_images(
    parent: Parent, split: str, keys: Sequence[str], labels: Sequence[int], sizes: Sequence[int], keeps_bytes: bool
) -> list[int]:
    """Return the positions of the images that the records do not have yet, by key.

    Raises IngestError for an image that they have with another label or, if they keep the bytes of files, another size.
    """
    known = parent.known(split)
    new = []
    for position, key in enumerate(keys):
        stored = known.get(key)
        if stored is None:
            new.append(position)
            continue
        label, size = stored
        is_other_size = size != sizes[position] and keeps_bytes
        if label != -1 and (label != labels[position] or is_other_size):
            found = f"label {label}, {size} bytes; here label {labels[position]}, {sizes[position]} bytes"
            raise IngestError(f"{split}/{key}: stored with {found}; changed images need another build, without --onto")
    return new
