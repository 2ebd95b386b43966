"""The list of files that were compared with their SHA-256 before and have not changed since: it only saves time.

DECISIONS, 2026-11-23. It lies in the user's cache, one file for each manifest.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from convnext_imagenet.base.files import sha256_json, write_json
from convnext_imagenet.base.host import cache_folder
from convnext_imagenet.records.manifest import Manifest


def stamp(path: Path) -> list[int]:
    """Return what changes when a file does: device, inode, size, times of content and inode in ns."""
    status = path.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def known_stamps(manifest: Manifest) -> dict[str, list[int]]:
    """Return the stamps of the files that passed before, by name."""
    try:
        stamps = json.loads(_stamp_file(manifest).read_bytes())
    except (OSError, ValueError, RuntimeError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def remember_stamps(manifest: Manifest, stamps: Mapping[str, list[int]]) -> None:
    """Keep the stamps of files that passed, instead of those kept before."""
    try:
        path = _stamp_file(manifest)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(stamps))
    except (OSError, RuntimeError):
        return  # without it the files are hashed again at the next opening


def _stamp_file(manifest: Manifest) -> Path:
    return cache_folder("checked") / f"{sha256_json(manifest.to_json())}.json"
