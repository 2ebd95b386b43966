"""RECORDS to a store, shard by shard: every file is read back and compared with its SHA-256.

Bytes that change in the store later, with the same size, are found by `verify_stored` and `pull`; a push sends what is
deleted there. Opens no shard.
"""

import contextlib
import fcntl
import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.files import read_json, sha256_file
from convnext_imagenet.base.host import cache_folder
from convnext_imagenet.base.stores import StoreFolder
from convnext_imagenet.records.build import SUMMARY_FILES
from convnext_imagenet.records.checked import find_damage
from convnext_imagenet.records.damage import planned_units
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.places import StorePlace, as_uri
from convnext_imagenet.records.travel import ARRIVALS, OnProgress, Travelled, for_all, require_uri

_LOCKS = ".push"


def push(root: Path, uri: str, on_progress: OnProgress = lambda _: None, take_over: bool = False) -> Travelled:
    """Write finished RECORDS to a folder of a store, or resume it; what is there already is not sent again.

    `on_progress` gets the bytes of each shard. Raises ArtefactError when the records are damaged, when the folder holds
    something else than them or the records that they were built onto, without rights, and while another machine pushes
    there, unless `take_over`; FailedError when the store keeps failing.
    """
    require_uri(uri)
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
        sent = for_all(units, lambda unit, _: _push_shard(root, folder, there, unit), on_progress)
        for name in (*SUMMARY_FILES, "manifest.json"):
            _send(root / name, folder, name, sha256_file(root / name))
        folder.write("_SUCCESS", (root / "_SUCCESS").read_bytes())
    return sent


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
    for _ in range(ARRIVALS):
        folder.upload(source, name)
        if folder.sha256(name) == sha256:
            return
    raise FailedError(f"{folder}/{name}: arrived {ARRIVALS} times with other bytes than {source}; check store and disk")


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
