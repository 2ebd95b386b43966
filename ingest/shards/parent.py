"""The records that new images are added to: what of them must not differ, and how their shards are taken over.

Their shards become shards of the new records as hard links. A shard that has not changed since it was written or
compared is not read (DECISIONS, 2026-11-29: growing reads no old shard). Opens no image.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from convnext_imagenet.base.files import read_json, sha256_file, sync_folder, write_json
from convnext_imagenet.base.protocol import file_damage, read_finished, read_receipt
from convnext_imagenet.base.stores import local_reader
from convnext_imagenet.base.wording import as_word
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.records.checked import Stamps, find_damage, is_unchanged, known_stamps, remember_stamps, stamp
from convnext_imagenet.records.damage import planned_units
from convnext_imagenet.records.index import INDEX_FILE, read_columns
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.mindrecord_file import layout_of
from convnext_imagenet.records.schema import QUARANTINE_FILE

_STAMPS: tuple[Stamps, ...] = ("checked", "written")
_SHARD_ENDINGS = (".mindrecord", ".mindrecord.db")
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
    def has_given_labels(self) -> bool:
        """Whether labels are those of the source of somebody's own images."""
        return bool(self.plan["source"].get("labels"))

    @property
    def relabelled(self) -> dict[str, dict[str, str]]:
        """The class in the raw tree of each image that is stored with another one, by split and key."""
        return self.plan["source"].get("relabelled", {})

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

    @cached_property
    def images_by_key(self) -> pa.Table:
        """The split, key, label and size in bytes of each image; label and size are -1 for one in quarantine."""
        stored = read_columns(self.root / INDEX_FILE, ("split", "key", "label", "bytes"))
        bad = read_columns(self.root / QUARANTINE_FILE, ("split", "key"))
        nothing = [pa.repeat(pa.scalar(-1, kind), bad.num_rows) for kind in (pa.int32(), pa.int64())]
        return pa.concat_tables([stored, pa.table([*bad.columns, *nothing], schema=stored.schema)])

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

    def link(self, units: Sequence[tuple[str, str]], out: Path, plan_id: str) -> None:
        """Give `out` shards of these records as hard links, or as copies on another file system, each with its receipt.

        Raises IngestError when a copy is not what the receipt says.
        """
        lists = {kind: known_stamps(self.manifest, kind) for kind in _STAMPS}
        for split, shard in units:
            folder, unit = out / split, Path(shard).stem
            receipt = read_json(self.root / split / f"{unit}.json")
            folder.mkdir(parents=True, exist_ok=True)
            for file in receipt["files"]:
                source = self.root / split / file["name"]
                before = stamp(source)
                _link_or_copy(source, folder / file["name"], file)
                _follow(lists.values(), file["name"], before, stamp(source))
            sync_folder(folder)
            write_json(folder / f"{unit}.json", receipt | {"plan_id": plan_id})
        for kind, stamps in lists.items():
            remember_stamps(self.manifest, stamps, kind)

    def hand_on_checks(self, out: Path, manifest: Manifest) -> None:
        """Let files of `out` that are files of these records, and were compared there, count as compared."""
        known = known_stamps(self.manifest)
        files = [(split, f"{Path(shard).stem}{end}") for split, shard in self.units for end in _SHARD_ENDINGS]
        paths = {name: out / split / name for split, name in files if name in known}
        now = {name: stamp(path) for name, path in paths.items() if path.exists()}
        remember_stamps(manifest, {name: new for name, new in now.items() if is_unchanged(known[name], new)})


def open_parent(root: Path) -> Parent:
    """Return finished records: a file that has changed since it was written or compared is compared with its SHA-256.

    Index, tables, quarantine and report are always compared. Raises ArtefactError when the records are unfinished or
    damaged.
    """
    manifest = Manifest.from_json(read_finished(root, "records"))
    damage = find_damage(root, manifest, deep=True, trusts_writing=True) or _damaged_tables(root, manifest)
    if damage:
        raise IngestError(f"--onto {root}: {damage[0]} ({len(damage)} damaged in total); repair it first")
    for name, digest in manifest.files.items():
        if not (root / name).is_file() or sha256_file(root / name) != digest:
            raise IngestError(
                f"--onto {root}: {name} is missing or has changed; run `convnext-records repair {as_word(root)}`"
            )
    plan = read_json(root / "plan.json")["plan"]
    units = tuple(planned_units(plan))
    return Parent(root.resolve(), manifest, plan, manifest.plan_id, sha256_file(root / "manifest.json"), units)


def _damaged_tables(root: Path, manifest: Manifest) -> list[str]:
    """Return what is wrong with the tables beside the shards, from which the new index is made."""
    units = [(root / split, shard.name) for split, entry in manifest.splits.items() for shard in entry.shards]
    tables = [(folder, read_json(folder / f"{Path(shard).stem}.json")["files"][2]) for folder, shard in units]
    return [damage for folder, file in tables if (damage := file_damage(folder, file, deep=True))]


def refuse_other_rules(parent: Parent, seed: int, treatment: Mapping[str, Any], rules: Mapping[str, int]) -> None:
    """Raise IngestError when new images would be checked, treated or shuffled otherwise than the stored."""
    stored = parent.plan["treatment"]
    names = sorted(treatment.keys() | stored.keys())  # a rule that an option switches on stands there only with it
    _refuse_others(parent, {name: treatment.get(name) for name in names}, {name: stored.get(name) for name in names})
    _refuse_others(parent, {"seed": seed, "rules": rules}, parent.plan)


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
    "accept_warnings": "pass the same --accept-warnings",
    "image_memory_mib": "pass the same --image-memory",
    "image_timeout_seconds": "pass the same --image-timeout",
    "conversion": "pass the same --convert and --quality",
    "reencoding": "pass the same --max-side and --quality",
    "small_pictures": "pass --fingerprints for both or for neither",
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


def _follow(lists: Iterable[dict[str, list[int]]], name: str, before: Sequence[int], after: Sequence[int]) -> None:
    """Renew the stamp of a file that was only linked, which changes the time of its inode but not of its content."""
    for stamps in lists:
        if is_unchanged(stamps.get(name), before) and is_unchanged(before, after):
            stamps[name] = list(after)


def _labels_before(parent: Parent, split: str, keys: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Return the labels of stored images in the raw tree, which a person may have changed."""
    wnids = parent.relabelled.get(split, {})
    if not wnids:
        return labels
    index_of = {entry.wnid: entry.index for entry in parent.manifest.classes}
    return np.array(
        [index_of[wnids[key]] if key in wnids else label for key, label in zip(keys, labels.tolist(), strict=True)]
    )


def new_images(
    parent: Parent, split: str, keys: Sequence[str], labels: Sequence[int], sizes: Sequence[int], keeps_bytes: bool
) -> list[int]:
    """Return the positions of the images that the records do not have yet, by key.

    Raises IngestError for an image that they have with another label or, if they keep the bytes of files, another size.
    """
    import pyarrow.compute as pc  # only growing records pays for importing it

    images = parent.images_by_key
    images = images.filter(pc.equal(images["split"], split)).combine_chunks()
    places = pc.index_in(pa.array(keys, pa.string()), value_set=images["key"])
    is_new = places.is_null().to_numpy(zero_copy_only=False)
    asked, stored = np.flatnonzero(~is_new), images.take(places.drop_null())
    label, size = stored["label"].to_numpy(), stored["bytes"].to_numpy()
    here = np.asarray(labels, np.int64)[asked]
    is_other = (label != here) & (_labels_before(parent, split, [keys[at] for at in asked], label) != here)
    if keeps_bytes:
        is_other |= size != np.asarray(sizes, np.int64)[asked]
    for place in np.flatnonzero(is_other & (label != -1))[:1]:
        at = asked[place]
        found = f"label {label[place]}, {size[place]} bytes; here label {labels[at]}, {sizes[at]} bytes"
        raise IngestError(f"{split}/{keys[at]}: stored with {found}; changed images need another build, without --onto")
    return np.flatnonzero(is_new).tolist()
