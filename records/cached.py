"""RECORDS at a URI as a directory of this machine: a whole copy in a cache of limited size.

Training visits every row in every epoch, on every rank over time, so the copy is whole. One copy serves all processes
and all runs of a user; its name is the SHA-256 of the manifest, so other records never take its place.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import make_folder
from convnext_imagenet.base.host import cache_folder
from convnext_imagenet.base.protocol import is_finished
from convnext_imagenet.base.stores import is_uri
from convnext_imagenet.records.places import StorePlace, as_uri
from convnext_imagenet.records.travel import pull

_DEFAULT_GIB = 200.0
_GIB = 2**30


def local_records(records: Path, say: Callable[[str], None]) -> Path:
    """Return the directory of RECORDS: `records` itself, or, for a URI, its copy in the cache, which is made first.

    `say` gets a line with what is fetched and into which cache. The cache is the folder CONVNEXT_RECORDS_CACHE and
    holds CONVNEXT_RECORDS_CACHE_GIB. Raises ArtefactError when the records do not fit, and what `pull` raises.
    """
    if not is_uri(records):
        return records
    place = StorePlace(as_uri(records))
    digest = hashlib.sha256(place.checked_manifest()).hexdigest()
    cache = Path(os.environ.get("CONVNEXT_RECORDS_CACHE") or cache_folder("records"))
    copy = cache / digest
    make_folder(cache)
    with (cache / f".{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the ranks of a job wait for the first of them
        if is_finished(copy):
            return copy
        needed = sum(
            shard.bytes + shard.index_bytes for split in place.manifest().splits.values() for shard in split.shards
        )
        limit = _limit_gib()
        _refuse_too_much(place, cache, copy, needed, limit)
        say(f"{place}: fetching {needed / _GIB:,.2f} GiB into {copy}; the cache may hold {limit:,.2f} GiB")
        pull(str(records), copy)
    return copy


def _limit_gib() -> float:
    text = os.environ.get("CONVNEXT_RECORDS_CACHE_GIB") or str(_DEFAULT_GIB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit > 0:
        raise ArtefactError(f"CONVNEXT_RECORDS_CACHE_GIB={text}: must be a number of GiB above 0")
    return limit


def _refuse_too_much(place: StorePlace, cache: Path, copy: Path, needed: int, limit_gib: float) -> None:
    """Raise ArtefactError when the cache or the disk has no room for the copy; a part of it may be there."""
    held = {folder: _bytes_in(folder) for folder in cache.iterdir() if folder.is_dir()}
    missing = needed - held.pop(copy, 0)
    if needed + sum(held.values()) > limit_gib * _GIB:
        others = ", ".join(f"{folder} ({size / _GIB:,.2f} GiB)" for folder, size in sorted(held.items()))
        raise ArtefactError(
            f"{place}: has {needed / _GIB:,.2f} GiB, but the cache may hold {limit_gib:,.2f} GiB; raise "
            f"CONVNEXT_RECORDS_CACHE_GIB, or delete what it holds: {others or 'nothing'}"
        )
    free = shutil.disk_usage(cache).free
    if missing > free:
        raise ArtefactError(
            f"{place}: {missing / _GIB:,.2f} GiB are missing, but the disk of {cache} has {free / _GIB:,.2f} GiB free; "
            f"name another folder by CONVNEXT_RECORDS_CACHE"
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
