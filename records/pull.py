"""RECORDS from a store, whole or some splits of them: every file is compared with its SHA-256. Opens no shard."""

import hashlib
import json
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, sha256_file, sync_file, sync_folder, write_atomically
from convnext_imagenet.base.wording import plural
from convnext_imagenet.records.checked import find_damage
from convnext_imagenet.records.damage import planned_units
from convnext_imagenet.records.held import held_part, note_held, note_whole
from convnext_imagenet.records.index import INDEX_FILE
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.places import StorePlace, as_uri
from convnext_imagenet.records.travel import (
    ARRIVALS,
    Check,
    OnProgress,
    Travelled,
    checked_receipt,
    for_all,
    require_uri,
)

_CHANGED = "changed while it was pulled; run the same command again"


def pull(uri: str, out: Path, on_progress: OnProgress = lambda _: None) -> Travelled:
    """Copy finished RECORDS from a folder of a store to the directory `out`, or resume it.

    `on_progress` gets the bytes of each shard. Raises ArtefactError when the folder holds no finished records, when
    they change meanwhile or are damaged, and when `out` holds something else; FailedError when the store keeps failing.
    """
    require_uri(uri)
    place = StorePlace(as_uri(uri))
    data = place.checked_manifest()
    manifest, plan = place.manifest(), place.read("plan.json")
    protocol.check_begun_or_empty(out, "records")
    with protocol.exclusive(out):
        protocol.check_begun_or_empty(out, "records")
        _check_out(out, manifest, plan)
        if (
            protocol.is_finished(out)
            and (out / "manifest.json").read_bytes() == data
            and not find_damage(out, manifest, deep=False)
        ):
            return Travelled(0, 0)
        protocol.reopen(out)
        fetched = _fetch_all(place, out, (data, plan, manifest), on_progress)
        note_whole(out)
        write_atomically(out / "_SUCCESS", place.read("_SUCCESS"))
    return fetched


def pull_splits(place: StorePlace, out: Path, splits: Collection[str], manifest_sha256: str) -> None:
    """Copy splits and index of finished RECORDS in a store to `out`, or resume it: a copy as `held.py` describes.

    Splits that `out` holds already stay, and can be read meanwhile. Raises as `pull` does, and ArtefactError when the
    manifest has another SHA-256 by now.
    """
    data, plan = place.checked_manifest(), place.read("plan.json")
    if hashlib.sha256(data).hexdigest() != manifest_sha256:
        raise ArtefactError(f"{place}: {_CHANGED}")
    manifest = Manifest.from_json(json.loads(data))
    with protocol.exclusive(out):
        _check_out(out, manifest, plan)
        held = set(held_part(out, manifest).splits) if protocol.is_finished(out) else set()
        entries = {name: entry for name, entry in manifest.splits.items() if name in splits}
        wanted = replace(manifest, splits=entries, files={INDEX_FILE: manifest.files[INDEX_FILE]})
        _fetch_all(place, out, (data, plan, wanted), lambda _: None)
        note_held(out, held | set(splits))
        write_atomically(out / "_SUCCESS", place.read("_SUCCESS"))


def _fetch_all(
    place: StorePlace, out: Path, documents: tuple[bytes, bytes, Manifest], on_progress: OnProgress
) -> Travelled:
    """Fetch the shards and files of a manifest; the documents are the whole manifest, the plan, and what is wanted.

    Raises ArtefactError when the records in the store changed meanwhile.
    """
    data, plan, wanted = documents
    write_atomically(out / "plan.json", plan)
    units = [unit for unit in planned_units(json.loads(plan)["plan"]) if unit[0] in wanted.splits]
    staging = protocol.staging(out)
    fetched = for_all(units, lambda unit, check: _pull_shard(place, wanted, out, staging, unit, check), on_progress)
    for name, digest in wanted.files.items():
        _fetch(place, name, out / name, staging, digest)
    if place.checked_manifest() != data:
        raise ArtefactError(f"{place}: {_CHANGED}")
    write_atomically(out / "manifest.json", data)
    shutil.rmtree(staging)
    return fetched


def verify_stored(place: StorePlace, on_progress: OnProgress = lambda _: None) -> int:
    """Read every file of RECORDS in a store, compare it with its SHA-256, and return the number of bytes.

    The manifest determines every byte, so what it names needs no decoding again. `on_progress` gets the bytes of each
    shard. Raises ArtefactError with the first three problems.
    """
    manifest, plan = place.manifest(), json.loads(place.read("plan.json"))["plan"]
    problems = [
        f"{name}: not the file that the manifest names"
        for name, digest in manifest.files.items()
        if hashlib.sha256(place.read(name)).hexdigest() != digest
    ]

    def verify_shard(unit: tuple[str, str], check: Check) -> Travelled:
        split, shard = unit
        receipt = checked_receipt(place, manifest, unit, place.read(f"{split}/{Path(shard).stem}.json"))
        for file in receipt["files"]:
            name = f"{split}/{file['name']}"
            try:
                is_same = place.folder.sha256(name, check) == file["sha256"]
            except FileNotFoundError:
                is_same = False
            if not is_same:
                problems.append(f"{name}: missing, or its SHA-256 is not the recorded one")
        return Travelled(1, sum(file["bytes"] for file in receipt["files"]))

    read = for_all(planned_units(plan), verify_shard, on_progress)
    if problems:
        raise ArtefactError(
            f"{place}: {plural(len(problems), 'problem')}: {'; '.join(sorted(problems)[:3])}; delete these "
            f"files there, and push again"
        )
    return read.bytes


def _pull_shard(
    place: StorePlace, manifest: Manifest, out: Path, staging: Path, unit: tuple[str, str], check: Check
) -> Travelled:
    split, shard = unit
    name = Path(shard).stem
    data = place.read(f"{split}/{name}.json")
    receipt = checked_receipt(place, manifest, unit, data)
    if protocol.read_receipt(out / split, name, manifest.plan_id) == receipt:
        return Travelled(0, 0)
    (out / split).mkdir(exist_ok=True)
    moved = sum(
        _fetch(place, f"{split}/{file['name']}", out / split / file["name"], staging, file["sha256"], check)
        for file in receipt["files"]
    )
    write_atomically(out / split / f"{name}.json", data)
    return Travelled(int(moved > 0), moved)


def _fetch(place: StorePlace, name: str, target: Path, staging: Path, sha256: str, check: Check = lambda: None) -> int:
    """Copy a file from the store unless it is there; return the bytes moved. Raises ArtefactError for other bytes."""
    if target.is_file() and sha256_file(target) == sha256:
        return 0
    staged = staging / target.name
    for _ in range(ARRIVALS):
        try:
            found = place.folder.download(name, staged, check)
        except FileNotFoundError as error:
            raise ArtefactError(f"{error}; push the records again") from None
        if found == sha256:
            break
    else:
        raise ArtefactError(
            f"{place}/{name}: its SHA-256 is not the recorded one; if the records there have changed meanwhile, run "
            f"the same command again, else delete this file there, and push them again"
        )
    size = staged.stat().st_size
    sync_file(staged)
    staged.replace(target)
    sync_folder(target.parent)
    return size


def _check_out(out: Path, manifest: Manifest, plan: bytes) -> None:
    """Raise ArtefactError when the directory holds other records than the manifest's or their parent."""
    path = out / "plan.json"
    if not path.exists() or path.read_bytes() == plan:
        return
    found = read_json(path).get("plan_id")
    if found not in (manifest.plan_id, manifest.source.get("parent", {}).get("plan_id")):
        raise ArtefactError(f"{out}: holds other records; choose another directory, or delete this one")
    (out / ".stamps.json").unlink(missing_ok=True)  # of the parent's source: a note that ingest would compare
