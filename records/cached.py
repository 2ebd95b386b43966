"""RECORDS at a URI as a directory of this machine: a copy of the splits that a command reads, in a limited cache.

Training visits every row of train in every epoch, and a rank other ones in each, so a machine needs whole splits. One
copy serves all processes and runs of a user; its name is the SHA-256 of the manifest, so other records never take its
place.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import make_folder
from convnext_imagenet.base.host import cache_folder
from convnext_imagenet.base.protocol import is_finished
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.base.signals import interruptible
from convnext_imagenet.records.held import held_part
from convnext_imagenet.records.index import INDEX_FILE
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.places import StorePlace, as_uri
from convnext_imagenet.records.pull import pull_splits

_DEFAULT_GIB = 200.0
_BESIDE = (INDEX_FILE, "plan.json", "manifest.json", "_SUCCESS")  # the splits
_GIB = 2**30


def local_records(records: Path, splits: Sequence[str], say: Callable[[str], None]) -> Path:
    """Return a directory with these splits of RECORDS: `records` itself, or, for a URI, its copy in the cache.

    What the copy lacks is fetched first, and `say` gets a line with its size. The cache is the folder
    CONVNEXT_RECORDS_CACHE and holds CONVNEXT_RECORDS_CACHE_GIB. Raises ArtefactError when the records have no such
    split or do not fit, before anything is fetched, and what `pull_splits` raises.
    """
    if not is_uri(records):
        return records
    place = StorePlace(as_uri(records))
    data = place.checked_manifest()
    digest, manifest = hashlib.sha256(data).hexdigest(), Manifest.from_json(json.loads(data))
    if unknown := [name for name in splits if name not in manifest.splits or not manifest.splits[name].rows]:
        known = ", ".join(sorted(name for name, entry in manifest.splits.items() if entry.rows))
        raise ArtefactError(f"{place}: no rows in split {unknown[0]!r}; splits with rows: {known or 'none'}")
    cache = Path(os.environ.get("CONVNEXT_RECORDS_CACHE") or cache_folder("records"))
    copy = cache / digest
    if not _absent(copy, manifest, splits):
        return copy
    make_folder(cache)
    with interruptible(), _only_writer(cache, say):  # one for the whole cache, or two copies together could be too much
        absent = _absent(copy, manifest, splits)
        if not absent:
            return copy
        shutil.rmtree(copy / ".staging", ignore_errors=True)  # of a fetch that was killed
        missing = _missing_bytes(copy, place.folder.sizes(), absent)
        limit = _limit_gib()
        _refuse_too_much(place, cache, missing, limit)
        say(
            f"{place}: fetching {missing / _GIB:,.2f} GiB ({', '.join(absent)}) into {copy}; the cache may hold "
            f"{limit:,.2f} GiB"
        )
        pull_splits(place, copy, absent, digest)
    return copy


def _absent(copy: Path, manifest: Manifest, splits: Sequence[str]) -> list[str]:
    """Return those of the splits that the copy does not hold."""
    held = held_part(copy, manifest).splits if is_finished(copy) else {}
    return [name for name in splits if name not in held]


def _missing_bytes(copy: Path, stored: Mapping[str, int], splits: Sequence[str]) -> int:
    """Return the bytes of what a copy needs of the stored files and does not have; a part of it may be there."""
    names = [name for name in stored if name in _BESIDE or name.partition("/")[0] in splits]
    return sum(stored[name] for name in names if not _has_size(copy / name, stored[name]))


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


@contextlib.contextmanager
def _only_writer(cache: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process adds to the cache, such as another rank or another command."""
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{cache}: another process fetches records into this cache; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _limit_gib() -> float:
    text = os.environ.get("CONVNEXT_RECORDS_CACHE_GIB") or str(_DEFAULT_GIB)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit > 0:
        raise ArtefactError(f"CONVNEXT_RECORDS_CACHE_GIB={text}: must be a number of GiB above 0")
    return limit


def _refuse_too_much(place: StorePlace, cache: Path, missing: int, limit_gib: float) -> None:
    """Raise ArtefactError when the cache or the disk has no room for so many bytes more."""
    held = {folder: _bytes_in(folder) for folder in cache.iterdir() if folder.is_dir()}
    if missing + sum(held.values()) > limit_gib * _GIB:
        listed = ", ".join(f"{folder} ({size / _GIB:,.2f} GiB)" for folder, size in sorted(held.items()))
        raise ArtefactError(
            f"{place}: {missing / _GIB:,.2f} GiB are to be fetched, but the cache may hold {limit_gib:,.2f} GiB; raise "
            f"CONVNEXT_RECORDS_CACHE_GIB, or delete what it holds: {listed or 'nothing'}"
        )
    free = shutil.disk_usage(cache).free
    if missing > free:
        raise ArtefactError(
            f"{place}: {missing / _GIB:,.2f} GiB are missing, but the disk of {cache} has {free / _GIB:,.2f} GiB free; "
            f"name another folder by CONVNEXT_RECORDS_CACHE"
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
