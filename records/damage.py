"""What is damaged in a RECORDS directory, found by digests alone: no shard is opened, and nothing is changed."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, sha256_file
from convnext_imagenet.base.protocol import marked_digest, read_receipt
from convnext_imagenet.base.wording import as_word, plural
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.schema import WRITING_VERSION, shard_name

Unit = tuple[str, str]  # split and file name of a shard
NEEDS_SOURCE = "only the source can make it again: run the same `convnext-ingest build` with --repair"
_MOST_NAMED = 5


def planned_units(plan: Mapping[str, Any]) -> list[Unit]:
    """Return the shards that the plan of a RECORDS directory names, in order."""
    units = []
    for split, count in plan["shards"].items():
        inherited = plan.get("inherited", {}).get(split, [])  # of the records that these were built onto
        total = len(inherited) + count
        names = [*inherited, *(shard_name(split, index, total) for index in range(len(inherited), total))]
        units += [(split, name) for name in names]
    return units


def damaged_units(
    root: Path, plan_id: str, units: Sequence[Unit], on_progress: Callable[[int], None] = lambda _: None
) -> list[Unit]:
    """Return the shards without a receipt of this plan, or with a file whose SHA-256 is not the recorded one.

    `on_progress` gets 1 for each shard.
    """

    def is_damaged(unit: Unit) -> bool:
        split, shard = unit
        damaged = read_receipt(root / split, Path(shard).stem, plan_id, deep=True) is None
        on_progress(1)
        return damaged

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [unit for unit, damaged in zip(units, pool.map(is_damaged, units), strict=True) if damaged]


def summary_damage(root: Path) -> list[str]:
    """Return what is wrong with the files beside the splits of a directory that was marked as finished."""
    try:
        digest, manifest = marked_digest(root), read_manifest(root)
    except ArtefactError as error:
        return [str(error)]
    if digest != sha256_file(root / "manifest.json"):
        return [f"{root / 'manifest.json'}: changed since the directory was finished"]
    return summary_file_problems(root, manifest)


def summary_file_problems(root: Path, manifest: Manifest) -> list[str]:
    """Return what is wrong with the files beside the splits: index, report, quarantine."""
    return [
        f"{root / name}: missing or changed since the records were finished"
        for name, digest in sorted(manifest.files.items())
        if not (root / name).is_file() or sha256_file(root / name) != digest
    ]


def what_is_lost(root: Path, damaged: Sequence[Unit], units: Sequence[Unit]) -> str:
    """Return in words which shards cannot be read, how many images they hold, and what to do."""
    rows = _rows_of_shards(root)
    known = [rows[shard] for _, shard in damaged if shard in rows]
    images = f", {plural(sum(known), 'image')}" if len(known) == len(damaged) else ""
    names = ", ".join(f"{split}/{shard}" for split, shard in damaged[:_MOST_NAMED])
    more = ", ..." if len(damaged) > _MOST_NAMED else ""
    return (
        f"lost without the source: {len(damaged)} of {plural(len(units), 'shard')}{images} ({names}{more}); "
        f"restore these from a copy, or run the same `convnext-ingest build` with --repair and the source"
    )


def say_what_is_lost(root: Path) -> str:
    """Return in words what of a RECORDS directory cannot be read, and what can be done without its source."""
    plan_id, plan = read_plan(root)
    units = planned_units(plan)
    if damaged := damaged_units(root, plan_id, units):
        return what_is_lost(root, damaged, units)
    return f"every shard is whole; run `convnext-records repair {as_word(root)}`, which needs no source"


def read_plan(root: Path) -> tuple[str, dict[str, Any]]:
    """Return the plan's id and the plan. Raises ArtefactError for a directory of another kind or version."""
    document = read_json(root / "plan.json")
    try:
        if document["kind"] != "records":
            raise ArtefactError(f"{root}: holds {document['kind']}, not records")
        plan = document["plan"]
        if plan["rules"]["writing"] != WRITING_VERSION:
            raise ArtefactError(
                f"{root}: written by version {document.get('begun_by', 'unknown')}, whose tables are others; "
                f"install that version to repair it"
            )
        return str(document["plan_id"]), plan
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"{root / 'plan.json'}: not the plan of records ({error}); restore it from a copy"
        ) from None


def read_manifest(root: Path) -> Manifest:
    """Return the manifest, of an unfinished directory, too. Raises ArtefactError when it is missing or damaged."""
    path = root / "manifest.json"
    try:
        value = read_json(path)
    except ArtefactError as error:
        raise ArtefactError(f"{error}; {NEEDS_SOURCE}") from None
    if not isinstance(value, dict):
        raise ArtefactError(f"{path}: not a manifest; {NEEDS_SOURCE}")
    return Manifest.from_json(value)


def _rows_of_shards(root: Path) -> dict[str, int]:
    """Return the rows of each shard as the manifest says; nothing without a readable one."""
    try:
        manifest = read_manifest(root)
    except ArtefactError:
        return {}
    return {shard.name: shard.rows for split in manifest.splits.values() for shard in split.shards}
