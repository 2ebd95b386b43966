"""RECORDS to a store and back: `push` and `pull`, shard by shard, compared by SHA-256 on arrival.

A shard counts in the store if and only if its receipt is there and its files have their sizes; `_SUCCESS` comes last.
So both are resumed by the same command after a kill at any moment, and only what differs is sent. Bytes that change in
the store later, with the same size, are found by `verify_stored` and `pull`; a push sends what is deleted there. Opens
no shard.
"""

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.files import read_json, sha256_file, sync_file, sync_folder, write_atomically
from convnext_imagenet.base.host import cache_folder
from convnext_imagenet.base.html import plural
from convnext_imagenet.base.stores import StoreFolder, is_uri
from convnext_imagenet.records.build import SUMMARY_FILES
from convnext_imagenet.records.checked import find_damage
from convnext_imagenet.records.damage import planned_units
from convnext_imagenet.records.held import held_part, note_held, note_whole
from convnext_imagenet.records.index import INDEX_FILE
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.places import StorePlace, as_uri

OnProgress = Callable[[int], None]
_ARRIVALS = 3  # attempts to send or fetch a file until it arrives as it left
_AT_ONCE = 4  # shards: requests wait for the network most of the time
_LOCKS = ".push"
_CHANGED = "changed while it was pulled; run the same command again"


@dataclass(frozen=True)
class Travelled:
    """What one push or pull moved: shards and bytes that were not there yet."""

    shards: int
    bytes: int


def push(root: Path, uri: str, on_progress: OnProgress = lambda _: None, take_over: bool = False) -> Travelled:
    """Write finished RECORDS to a folder of a store, or resume it; what is there already is not sent again.

    `on_progress` gets the bytes of each shard. Raises ArtefactError when the records are damaged, when the folder holds
    something else than them or the records that they were built onto, without rights, and while another machine pushes
    there, unless `take_over`; FailedError when the store keeps failing.
    """
    _require_uri(uri)
    manifest = Manifest.from_json(protocol.read_finished(root, "records"))
    if damage := find_damage(root, manifest, deep=True):
        raise ArtefactError(f"{damage[0]} ({len(damage)} damaged in total); repair it before it is pushed")
    folder = StorePlace(as_uri(uri)).folder
    with _only_push(folder, take_over):
        there = folder.sizes()
        _check_target(root, manifest, folder, there)
        if _is_same(root, folder, there):
            return Travelled(0, 0)
        folder.remove("_SUCCESS")
        folder.write("plan.json", (root / "plan.json").read_bytes())
        units = planned_units(read_json(root / "plan.json")["plan"])
        sent = _for_all(units, lambda unit: _push_shard(root, folder, there, unit), on_progress)
        for name in (*SUMMARY_FILES, "manifest.json"):
            _send(root / name, folder, name, sha256_file(root / name))
        folder.write("_SUCCESS", (root / "_SUCCESS").read_bytes())
    return sent


def pull(uri: str, out: Path, on_progress: OnProgress = lambda _: None) -> Travelled:
    """Copy finished RECORDS from a folder of a store to the directory `out`, or resume it.

    `on_progress` gets the bytes of each shard. Raises ArtefactError when the folder holds no finished records, when
    they change meanwhile or are damaged, and when `out` holds something else; FailedError when the store keeps failing.
    """
    _require_uri(uri)
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
    fetched = _for_all(units, lambda unit: _pull_shard(place, wanted, out, staging, unit), on_progress)
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

    def verify_shard(unit: tuple[str, str]) -> Travelled:
        split, shard = unit
        receipt = _checked_receipt(place, manifest, unit, place.read(f"{split}/{Path(shard).stem}.json"))
        for file in receipt["files"]:
            name = f"{split}/{file['name']}"
            try:
                is_same = place.folder.sha256(name) == file["sha256"]
            except FileNotFoundError:
                is_same = False
            if not is_same:
                problems.append(f"{name}: missing, or its SHA-256 is not the recorded one")
        return Travelled(1, sum(file["bytes"] for file in receipt["files"]))

    read = _for_all(planned_units(plan), verify_shard, on_progress)
    if problems:
        raise ArtefactError(
            f"{place}: {plural(len(problems), 'problem')}: {'; '.join(sorted(problems)[:3])}; delete these "
            f"files there, and push again"
        )
    return read.bytes


def _require_uri(uri: str) -> None:
    if not is_uri(uri):
        raise ArtefactError(f"{uri}: not a URI; use one such as s3://bucket/records, or copy the directory")


def _for_all(
    units: Sequence[tuple[str, str]], move: Callable[[tuple[str, str]], Travelled], on_progress: OnProgress
) -> Travelled:
    """Move all shards, some at once; the first error ends it after the shards that are under way."""
    shards = moved = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = [pool.submit(move, unit) for unit in units]
        try:
            for result in results:
                one = result.result()
                on_progress(one.bytes)
                shards, moved = shards + one.shards, moved + one.bytes
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Travelled(shards, moved)


def _push_shard(root: Path, folder: StoreFolder, there: Mapping[str, int], unit: tuple[str, str]) -> Travelled:
    split, shard = unit
    receipt_name = f"{split}/{Path(shard).stem}.json"
    receipt = read_json(root / receipt_name)
    names = {f"{split}/{file['name']}": file for file in receipt["files"]}
    is_there = all(there.get(name) == file["bytes"] for name, file in names.items())
    before = _remote_json(folder, receipt_name) if is_there and receipt_name in there else None
    if before == receipt:
        return Travelled(0, 0)
    moved = 0
    if before is None or before.get("files") != receipt["files"]:
        folder.remove(receipt_name)
        for name, file in names.items():
            if there.get(name) != file["bytes"] or folder.sha256(name) != file["sha256"]:
                _send(root / name, folder, name, file["sha256"])
                moved += file["bytes"]
    folder.write(receipt_name, (root / receipt_name).read_bytes())
    return Travelled(int(moved > 0), moved)


def _send(source: Path, folder: StoreFolder, name: str, sha256: str) -> None:
    """Write a file to the store and read it back. Raises FailedError when it arrives other than it left."""
    for _ in range(_ARRIVALS):
        folder.upload(source, name)
        if folder.sha256(name) == sha256:
            return
    raise FailedError(
        f"{folder}/{name}: arrived {_ARRIVALS} times with other bytes than {source}; check store and disk"
    )


def _pull_shard(place: StorePlace, manifest: Manifest, out: Path, staging: Path, unit: tuple[str, str]) -> Travelled:
    split, shard = unit
    name = Path(shard).stem
    data = place.read(f"{split}/{name}.json")
    receipt = _checked_receipt(place, manifest, unit, data)
    if protocol.read_receipt(out / split, name, manifest.plan_id) == receipt:
        return Travelled(0, 0)
    (out / split).mkdir(exist_ok=True)
    moved = sum(
        _fetch(place, f"{split}/{file['name']}", out / split / file["name"], staging, file["sha256"])
        for file in receipt["files"]
    )
    write_atomically(out / split / f"{name}.json", data)
    return Travelled(int(moved > 0), moved)


def _checked_receipt(place: StorePlace, manifest: Manifest, unit: tuple[str, str], data: bytes) -> dict[str, Any]:
    """Return the receipt of a shard. Raises ArtefactError when it contradicts the manifest."""
    split, shard = unit
    stated = {entry.name: entry.files for entry in manifest.splits[split].shards}
    try:
        receipt = json.loads(data)
        files = receipt["files"]
        is_right = receipt["plan_id"] == manifest.plan_id and receipt["unit"] == Path(shard).stem
        is_right &= files[:2] == list(stated[shard]) if shard in stated else not files
        is_right &= all(Path(file["name"]).name == file["name"] and file["sha256"] for file in files)
    except (ValueError, KeyError, TypeError):
        is_right = False
    if not is_right:
        raise ArtefactError(
            f"{place}/{split}/{Path(shard).stem}.json: contradicts the manifest; delete it there, and push the "
            f"records again"
        )
    return receipt


def _fetch(place: StorePlace, name: str, target: Path, staging: Path, sha256: str) -> int:
    """Copy a file from the store unless it is there; return the bytes moved. Raises ArtefactError for other bytes."""
    if target.is_file() and sha256_file(target) == sha256:
        return 0
    staged = staging / target.name
    for _ in range(_ARRIVALS):
        try:
            found = place.folder.download(name, staged)
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


def _check_target(root: Path, manifest: Manifest, folder: StoreFolder, there: Mapping[str, int]) -> None:
    """Raise ArtefactError unless the folder is empty, or holds these records or those that they were built onto."""
    others = [name for name in there if not name.startswith(f"{_LOCKS}/")]
    if not others:
        return
    if "plan.json" not in there:
        raise ArtefactError(f"{folder}: not empty, and no records (it holds {min(others)!r}); choose another folder")
    found = _remote_json(folder, "plan.json")
    own = {manifest.plan_id, manifest.source.get("parent", {}).get("plan_id")}
    if found is None or found.get("kind") != "records" or found.get("plan_id") not in own:
        raise ArtefactError(f"{folder}: holds other records than {root}; choose another folder, or delete it first")


def _check_out(out: Path, manifest: Manifest, plan: bytes) -> None:
    """Raise ArtefactError when the directory holds other records than the manifest's or their parent."""
    path = out / "plan.json"
    if not path.exists() or path.read_bytes() == plan:
        return
    found = read_json(path).get("plan_id")
    if found not in (manifest.plan_id, manifest.source.get("parent", {}).get("plan_id")):
        raise ArtefactError(f"{out}: holds other records; choose another directory, or delete this one")
    (out / ".stamps.json").unlink(missing_ok=True)  # of the parent's source: a note that ingest would compare


def _is_same(root: Path, folder: StoreFolder, there: Mapping[str, int]) -> bool:
    """Return whether the folder is marked as holding these records, and every file has its size.

    Each file was compared with its SHA-256 before the mark was written; to read all of them again would take as long.
    """
    marks = ("_SUCCESS", "manifest.json", "plan.json")
    if any(name not in there or folder.read(name) != (root / name).read_bytes() for name in marks):
        return False
    names = [*SUMMARY_FILES]
    for split, shard in planned_units(read_json(root / "plan.json")["plan"]):
        receipt = f"{split}/{Path(shard).stem}.json"
        names += [receipt, *(f"{split}/{file['name']}" for file in read_json(root / receipt)["files"])]
    return all(there.get(name) == (root / name).stat().st_size for name in names)


def _remote_json(folder: StoreFolder, name: str) -> Any:
    """Return the JSON value of a file in the store; None when it is missing or no JSON."""
    try:
        return json.loads(folder.read(name))
    except (FileNotFoundError, ValueError):
        return None


@contextlib.contextmanager
def _only_push(folder: StoreFolder, take_over: bool) -> Iterator[None]:
    """Reserve a folder of a store for one push.

    On this machine the kernel holds the lock, so the note of a push that was killed here says nothing. A note of
    another machine or user stays until its push ends, or somebody takes over. Raises ArtefactError for both.
    """
    mine = f"{_LOCKS}/{hashlib.sha256(f'{socket.gethostname()} {getpass.getuser()}'.encode()).hexdigest()[:16]}.json"
    locks = cache_folder("push")
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"{hashlib.sha256(str(folder).encode()).hexdigest()}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtefactError(f"{folder}: another process pushes there; wait for it to end") from None
        # Both write first and look then, so that of two that begin at the same time at least one sees the other.
        folder.write(mine, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
        others = sorted(name for name in folder.sizes() if name.startswith(f"{_LOCKS}/") and name != mine)
        if others and not take_over:
            note = _remote_json(folder, others[0]) or {}
            folder.remove(mine)
            raise ArtefactError(
                f"{folder}: a push from {note.get('host', 'another machine')} is under way there, or was killed; wait "
                f"for it to end, or pass --take-over if it has"
            )
        for name in others:
            folder.remove(name)
        try:
            yield
        finally:
            with contextlib.suppress(ArtefactError):
                folder.remove(mine)
