"""Proof that an export still holds what was written: every file is read and compared with its SHA-256."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import read_json, sha256_file
from convnext_imagenet.base.protocol import bookkeeping_name, file_damage, read_finished
from convnext_imagenet.base.wording import plural
from convnext_imagenet.records.export.checksums import read_checksums
from convnext_imagenet.records.export.job import KIND


@dataclass(frozen=True)
class ExportVerification:
    """What was read: the rows and bytes of the files that are whole, and in words what is missing or has changed."""

    rows: int
    bytes: int
    problems: tuple[str, ...]


def is_export(root: Path) -> bool:
    """Return whether a directory is an export, or was begun as one. Raises ArtefactError for a damaged plan."""
    path = root / bookkeeping_name(KIND, "plan.json")  # PREDICTIONS have this name, too
    plan = read_json(path) if path.is_file() else None
    return isinstance(plan, dict) and plan.get("kind") == KIND


def verify_export(root: Path, on_progress: Callable[[int], None] = lambda _: None) -> ExportVerification:
    """Compare every file of a finished export with its SHA-256; of a folder, each image.

    `on_progress` gets the bytes of each file. Raises ArtefactError for an unfinished export.
    """
    manifest = read_finished(root, KIND)
    problems, read = [], 0
    for damage, size in _checked(root, manifest):
        problems += damage
        read += size
        on_progress(size)
    return ExportVerification(sum(manifest["rows"].values()), read, tuple(problems))


def refuse_export_problems(root: Path, verification: ExportVerification) -> None:
    """Raise ArtefactError, with the first three problems, when a file is missing or has changed."""
    if verification.problems:
        raise ArtefactError(
            f"{root}: {plural(len(verification.problems), 'problem')}: {'; '.join(verification.problems[:3])}; delete "
            f"what has changed, and run the same `convnext-records export` again"
        )


def _checked(root: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[list[str], int]]:
    """Yield for each file what is wrong with it, and its size."""
    for file in manifest["files"]:
        damage = file_damage(root, file, deep=True)
        yield [damage] if damage else [], 0 if damage else file["bytes"]
        if manifest["format"] == "folder" and not damage:
            yield from (_checked_image(root / name, sha256) for name, sha256 in read_checksums(root / file["name"]))


def _checked_image(path: Path, sha256: str) -> tuple[list[str], int]:
    if not path.is_file():
        return [f"{path}: missing"], 0
    if sha256_file(path) != sha256:
        return [f"{path}: its content has changed (its SHA-256 is not the recorded one)"], 0
    return [], path.stat().st_size
