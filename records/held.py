"""Which splits of RECORDS a directory holds: all, or, in a copy of the cache, those that somebody has needed.

Such a copy has the manifest of the whole set, so that it is the same set to a RUN. It lacks quarantine and report.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, write_json
from convnext_imagenet.records.index import INDEX_FILE
from convnext_imagenet.records.manifest import Manifest

_HELD_FILE = ".splits.json"


def held_part(root: Path, manifest: Manifest) -> Manifest:
    """Return the manifest without splits and files that the directory does not hold; mostly it holds all.

    Raises ArtefactError when the note of what it holds is damaged.
    """
    path = root / _HELD_FILE
    if not path.exists():
        return manifest
    names = read_json(path)
    if not isinstance(names, list):
        raise ArtefactError(f"{path}: not a list of splits; delete {root}, a copy, and it is fetched again")
    splits = {name: entry for name, entry in manifest.splits.items() if name in names}
    files = {name: digest for name, digest in manifest.files.items() if name == INDEX_FILE}
    return dataclasses.replace(manifest, splits=splits, files=files)


def note_held(root: Path, splits: Iterable[str]) -> None:
    """Note that the directory holds these splits and no others."""
    write_json(root / _HELD_FILE, sorted(splits))


def note_whole(root: Path) -> None:
    """Note that the directory holds all that its manifest names, as every other directory does."""
    (root / _HELD_FILE).unlink(missing_ok=True)
