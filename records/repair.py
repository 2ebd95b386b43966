"""Repairs what a RECORDS directory can repair without its source: the files beside the splits, and the mark at its end.

A damaged shard needs the source: `convnext-ingest build --repair` writes it again. Here it is only named.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.base.protocol import exclusive, is_finished, marked_digest, read_receipt, reopen
from convnext_imagenet.records.build import mark_finished, write_summary_files
from convnext_imagenet.records.damage import (
    NEEDS_SOURCE,
    Unit,
    damaged_units,
    planned_units,
    read_manifest,
    read_plan,
    summary_damage,
    what_is_lost,
)
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.quarantine import quarantined_in, table_bytes
from convnext_imagenet.records.receipts import split_entry
from convnext_imagenet.records.verify import refuse_problems, verify_content


@dataclass(frozen=True)
class Repair:
    """What `repair_without_source` did: the files that it wrote again, and the rows that it read before it marked them.

    `has_new_manifest` when another version than this one had written the files, so that their bytes differ.
    """

    rewritten: tuple[str, ...]
    rows_read: int
    has_new_manifest: bool


def repair_without_source(root: Path, on_progress: Callable[[int], None]) -> Repair:
    """Write damaged summary files again; mark the directory as finished after everything in it was verified.

    Raises ArtefactError, and changes nothing, when shards are damaged (with what is lost), when manifest.json is, when
    another version wrote the directory, and when the verification finds a problem. `on_progress` gets 1 for each row.
    """
    with exclusive(root):
        plan_id, plan = read_plan(root)
        units = planned_units(plan)
        if damaged := damaged_units(root, plan_id, units):
            raise ArtefactError(f"{root}: {what_is_lost(root, damaged, units)}")
        if is_finished(root) and not summary_damage(root):
            return Repair((), 0, has_new_manifest=False)
        manifest = read_manifest(root)
        receipts = {name: [_receipt(root, unit, plan_id) for unit in units if unit[0] == name] for name, _ in units}
        splits = {name: split_entry(of_split, len(manifest.classes)) for name, of_split in receipts.items()}
        if manifest.splits != splits or not _follows(manifest, plan_id, plan) or _is_other_than_marked(root):
            raise ArtefactError(f"{root / 'manifest.json'}: changed since the directory was finished; {NEEDS_SOURCE}")
        before = {name: _digest(root / name) for name in manifest.files}
        entries = quarantined_in(receipt for of_split in receipts.values() for receipt in of_split)
        reopen(root)
        repaired = write_summary_files(root, manifest, table_bytes(entries), [asdict(entry) for entry in entries])
        verification = verify_content(root, repaired, on_progress)
        refuse_problems(root, verification)
        mark_finished(root, repaired)
        rewritten = tuple(name for name, digest in sorted(repaired.files.items()) if digest != before.get(name))
        return Repair(rewritten, verification.rows, repaired != manifest)


def _follows(manifest: Manifest, plan_id: str, plan: Mapping[str, Any]) -> bool:
    """Return whether a manifest says what the plan says, in all that both hold."""
    classes = [[entry.wnid, entry.name] for entry in manifest.classes]
    source = {name: manifest.source.get(name) for name in plan["source"]}
    found = (manifest.plan_id, manifest.seed, manifest.versions, classes, source, manifest.source.get("treatment"))
    return found == (plan_id, plan["seed"], plan["versions"], plan["classes"], plan["source"], plan["treatment"])


def _is_other_than_marked(root: Path) -> bool:
    digest = marked_digest(root)
    return digest is not None and digest != sha256_file(root / "manifest.json")


def _receipt(root: Path, unit: Unit, plan_id: str) -> dict[str, Any]:
    split, shard = unit
    receipt = read_receipt(root / split, Path(shard).stem, plan_id)
    if receipt is None:
        raise ArtefactError(f"{root / split / shard}: changed during the repair; stop whatever writes there")
    return receipt


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None
