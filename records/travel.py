"""What RECORDS that travel to a store and back have in common: shards that move some at a time, and their receipts.

A shard counts in the store if and only if its receipt is there and its files have their sizes; `_SUCCESS` comes last.
So `push.py` and `pull.py` are resumed by the same command after a kill at any moment, and only what differs is moved.
Opens no shard.
"""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.places import StorePlace

OnProgress = Callable[[int], None]
Check = Callable[[], None]
ARRIVALS = 3  # attempts to send or fetch a file until it arrives as it left
_AT_ONCE = 4  # shards: requests wait for the network most of the time


@dataclass(frozen=True)
class Travelled:
    """What one push or pull moved: shards and bytes that were not there yet."""

    shards: int
    bytes: int


def require_uri(uri: str) -> None:
    """Raise ArtefactError for a path."""
    if not is_uri(uri):
        raise ArtefactError(f"{uri}: not a URI; use one such as s3://bucket/records, or copy the directory")


class _Stopped(Exception):
    """Ends a shard that is under way, because another one has failed or a signal has come."""


def for_all(
    units: Sequence[tuple[str, str]], move: Callable[[tuple[str, str], Check], Travelled], on_progress: OnProgress
) -> Travelled:
    """Move all shards, some at once; the first error or signal ends it.

    What is under way ends where `move` calls the check that it gets, else with the shard.
    """
    shards = moved = 0
    is_over = threading.Event()

    def check() -> None:
        if is_over.is_set():
            raise _Stopped

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = [pool.submit(move, unit, check) for unit in units]
        try:
            for result in results:
                one = result.result()
                on_progress(one.bytes)
                shards, moved = shards + one.shards, moved + one.bytes
        except BaseException:
            is_over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Travelled(shards, moved)


def checked_receipt(place: StorePlace, manifest: Manifest, unit: tuple[str, str], data: bytes) -> dict[str, Any]:
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
