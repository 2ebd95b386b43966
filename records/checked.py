"""Whether the files of RECORDS are those of the manifest, by size or by SHA-256. Opens no shard.

Files that were compared before and have not changed since are listed in the user's cache, one list for each manifest:
it only saves time (DECISIONS, 2026-11-23). A second list has the files that are as they were written
(DECISIONS, 2026-11-29: growing reads no old shard).
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from convnext_imagenet.base.files import sha256_json, write_json
from convnext_imagenet.base.host import cache_folder
from convnext_imagenet.base.protocol import file_damage, read_receipt
from convnext_imagenet.records.manifest import Manifest, ShardEntry

Stamps = Literal["checked", "written"]


def find_damage(
    root: Path, manifest: Manifest, deep: bool, remembered: bool = True, trusts_writing: bool = False
) -> list[str]:
    """Return what is wrong with the files that the manifest names and with their receipts, in their order.

    `deep` compares SHA-256; with `remembered`, files that passed before and have not changed since are not read again
    (DECISIONS, 2026-11-23: the list of checked shards). With `trusts_writing`, neither are files that have not changed
    since this user wrote them, but they do not count as compared.
    """
    files = [(root / split, file) for split, entry in manifest.splits.items() for file in _files(entry.shards)]
    shallow = [damage for folder, file in files if (damage := file_damage(folder, file, deep=False))]
    shallow = shallow or _receipt_damage(root, manifest)  # records without receipts were edited (DECISIONS, 2026-11-24)
    if shallow or not deep:
        return shallow
    checked = known_stamps(manifest) if remembered else {}
    written = known_stamps(manifest, "written") if trusts_writing else {}
    now = {file["name"]: stamp(folder / file["name"]) for folder, file in files}
    unread = [(folder, file) for folder, file in files if not _is_known((checked, written), file["name"], now)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda pair: file_damage(pair[0], pair[1], deep=True), unread)
        changed = [damage for damage in results if damage]
    if changed:
        return changed
    read = {file["name"] for _, file in unread}
    fresh = {name: new for name, new in now.items() if name in read or is_unchanged(checked.get(name), new)}
    if fresh != checked:
        remember_stamps(manifest, fresh)
    return []


def _receipt_damage(root: Path, manifest: Manifest) -> list[str]:
    damage = []
    for split, entry in manifest.splits.items():
        for shard in entry.shards:
            path = root / split / f"{Path(shard.name).stem}.json"
            receipt = read_receipt(path.parent, path.stem, manifest.plan_id)
            if receipt is None:
                damage.append(
                    f"{path}: the receipt is missing, damaged or of another plan, or a file named in it is damaged"
                )
            elif receipt["files"][: len(shard.files)] != list(shard.files):
                damage.append(f"{path}: the receipt contradicts the manifest")
    return damage


def _files(shards: Sequence[ShardEntry]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        yield from shard.files


def stamp(path: Path) -> list[int]:
    """Return what changes when a file does: device, inode, size, times of content and inode in ns, number of links."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink]


def is_unchanged(before: Sequence[int] | None, now: Sequence[int]) -> bool:
    """Return whether a file is as it was, by its stamps.

    The time of the inode also changes when records that share the file are made or deleted. Then the number of links is
    another one, and the time of the content must be the same (DECISIONS, 2026-11-30: links are no changes).
    """
    if before is None or len(before) != len(now) or list(before[:4]) != list(now[:4]):
        return False
    return before[4] == now[4] or before[5] != now[5]


def note_as_written(root: Path, manifest: Manifest) -> None:
    """Keep the stamps of the files that have not changed since their receipts: their writer computed the SHA-256."""
    stamps: dict[str, list[int]] = {}
    for split, entry in manifest.splits.items():
        for shard in entry.shards:
            noted_ns = (root / split / f"{Path(shard.name).stem}.json").stat().st_ctime_ns
            found = {file["name"]: stamp(root / split / file["name"]) for file in shard.files}
            stamps |= {name: each for name, each in found.items() if each[4] <= noted_ns}
    remember_stamps(manifest, stamps, "written")


def known_stamps(manifest: Manifest, kind: Stamps = "checked") -> dict[str, list[int]]:
    """Return the stamps of the files that passed before, or were as their writer left them, by name."""
    try:
        stamps = json.loads(_stamp_file(manifest, kind).read_bytes())
    except (OSError, ValueError, RuntimeError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def remember_stamps(manifest: Manifest, stamps: Mapping[str, list[int]], kind: Stamps = "checked") -> None:
    """Keep these stamps instead of those kept before."""
    try:
        path = _stamp_file(manifest, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(stamps))
    except (OSError, RuntimeError):
        return  # without it the files are hashed again at the next opening


def _is_known(lists: Sequence[Mapping[str, list[int]]], name: str, now: Mapping[str, list[int]]) -> bool:
    return any(is_unchanged(stamps.get(name), now[name]) for stamps in lists)


def _stamp_file(manifest: Manifest, kind: Stamps) -> Path:
    return cache_folder(kind) / f"{sha256_json(manifest.to_json())}.json"
