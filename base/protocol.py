"""The publish-then-mark protocol that RECORDS, RUN and PREDICTIONS share.

A directory begins with `plan.json`, which says what it is going to hold. Each unit of work (a shard, a part,
a checkpoint) is written under its final base name in `.staging`, forced to disk, moved, and marked by a receipt,
in this order. `manifest.json` and then `_SUCCESS` end the work. A crash therefore leaves units that are whole and
marked, or nothing under a final name. This file knows nothing of images.

In PREDICTIONS the names of plan, manifest and receipts begin with an underscore: pyarrow, pandas and Spark read a whole
folder as Parquet and skip such names.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import (
    is_leftover,
    make_folder,
    make_readable,
    read_json,
    sha256_file,
    sha256_json,
    sync_file,
    sync_folder,
    write_json,
)
from convnext_imagenet.base.plan_changes import Difference, describe, differences, way_back

log = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
_FIRST_VERSION = "0.1.0"  # whose plans do not name the version that began them
_SUCCESS = "_SUCCESS"
STAGED = ".staged"  # behind the name of a staged file that tools would find: `**/*.parquet` looks into hidden folders
_STAGING, _LOCK, _LOGS = ".staging", ".lock", "logs"
_HOW_TO_GO_ON = {
    "records": "run the same `convnext-ingest build` again to finish it",
    "run": "run the same `convnext-train run` again to finish it",
    "predictions": "run the same `convnext-serve predict` again to finish it",
}


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the directory for one writer; the kernel lets go when the process ends, however it ends."""
    make_folder(root)
    with (root / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtefactError(
                f"{root}: another process is writing here; wait for it to end, or choose another directory"
            ) from None
        except OSError as error:
            log.warning(
                "%s: its file system has no locks (%s), so a second writer is not noticed", root, error.strerror
            )
        yield


class OtherPlanError(ArtefactError):
    """A directory of another plan; `reason` says what differs and `way_back` how to finish it as it was begun."""

    def __init__(self, root: Path, reason: str, way_back: str) -> None:
        super().__init__(f"{root}: {reason}; choose another directory, or delete this one{way_back}")
        self.reason, self.way_back = reason, way_back


def begin(root: Path, kind: str, plan: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> str:
    """Declare what `root` is going to hold and return the plan's id; a directory of another plan is refused.

    `neutral` maps dotted keys of `plan` to the value that a stored plan without the key stands for. A stored plan that
    is equal but for such keys keeps its file and its id, which its receipts name.

    Raises OtherPlanError when the directory belongs to another plan (with the keys that differ), ArtefactError when it
    is of another kind, its plan was changed by hand, or it holds files that this protocol did not write.
    """
    make_folder(root)
    plan = json.loads(json.dumps(plan))
    plan_id = _plan_id(kind, PROTOCOL_VERSION, plan)
    path = root / bookkeeping_name(kind, "plan.json")
    if not path.exists():
        _refuse_foreign_files(root)
        begun_by = importlib.metadata.version("convnext_imagenet")  # for people: no part of the id
        content = {"kind": kind, "protocol": PROTOCOL_VERSION, "plan_id": plan_id, "plan": plan, "begun_by": begun_by}
        write_json(path, content)
        return plan_id
    found = _plan_of(path, kind)
    if found.get("plan_id") != _plan_id(kind, found.get("protocol"), found.get("plan")):
        raise ArtefactError(
            f"{path}: changed since it was written; restore it from a copy, choose another directory, "
            f"or delete this one"
        )
    changed = differences(found["plan"], plan, json.loads(json.dumps(neutral or {})))
    if found["protocol"] != PROTOCOL_VERSION:
        changed.append(Difference("protocol version", found["protocol"], PROTOCOL_VERSION))
    if changed:
        begun_by = found.get("begun_by", _FIRST_VERSION)
        raise OtherPlanError(root, f"belongs to another run {describe(changed)}", way_back(changed, begun_by))
    return str(found["plan_id"])


def join(root: Path, kind: str, plan: Mapping[str, Any], neutral: Mapping[str, Any] | None = None) -> str:
    """Return the id of `plan` in a directory that another process of the same job has begun by `begin`.

    Raises ArtefactError when it cannot be seen from here, or holds another plan.
    """
    if not (root / bookkeeping_name(kind, "plan.json")).exists():
        raise ArtefactError(
            f"{root}: begun by the job's first process, but not there for this one; "
            f"all machines of a job need it as one shared folder"
        )
    return begin(root, kind, plan, neutral)


def check_begun_or_empty(root: Path, kind: str) -> None:
    """Raise ArtefactError for a directory that `begin` would refuse whatever the plan; nothing is written."""
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not nearest.is_dir():
        raise ArtefactError(f"{root}: a file is in the way; choose another directory")
    path = root / bookkeeping_name(kind, "plan.json")
    if path.exists():
        _plan_of(path, kind)
    elif nearest == root:
        _refuse_foreign_files(root)


def logs_folder(root: Path, kind: str) -> Path:
    """Where processes of a job on `root` keep their logs."""
    return root / bookkeeping_name(kind, _LOGS)


def bookkeeping_name(kind: str, name: str) -> str:
    """The name of a file of the protocol (`plan.json`, a receipt) in a directory of this kind."""
    return f"_{name}" if kind == "predictions" else name


def staging(root: Path, writer: str = "") -> Path:
    """An empty folder on the same file system for half-written units; call it under `exclusive`.

    Several processes that share one `exclusive` name themselves as `writer`s, once the folder of all was emptied.
    """
    folder = root / _STAGING / writer
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)  # what a killed job has left running may write there a moment longer
    return folder


def publish(staged: Sequence[Path], folder: Path, unit: str, plan_id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Move finished files to `folder` under their own names, without STAGED, and mark the unit; returns the receipt.

    Files are forced to disk before they move, the folder after, and the receipt comes last: a unit counts
    if and only if its receipt is there.
    """
    make_folder(folder)
    files = []
    for path in staged:
        make_readable(path)
        sync_file(path)
        files.append(
            {"name": path.name.removesuffix(STAGED), "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        )
    for path in staged:
        path.replace(folder / path.name.removesuffix(STAGED))
    sync_folder(folder)
    receipt = {"unit": unit, "plan_id": plan_id, "files": files, "facts": dict(facts)}
    write_json(folder / f"{unit}.json", receipt)
    return receipt


def read_receipt(folder: Path, unit: str, plan_id: str, deep: bool = False) -> dict[str, Any] | None:
    """The receipt of a finished unit of this plan, or None when the unit has to be made (again).

    `deep` compares the files' SHA-256; otherwise their sizes are compared.
    """
    try:
        receipt = read_json(folder / f"{unit}.json")
        if receipt["plan_id"] != plan_id or receipt["unit"] != unit:
            return None
        damaged = any(file_damage(folder, file, deep) for file in receipt["files"])
    except (ArtefactError, KeyError, TypeError):
        return None
    return None if damaged else receipt


def file_damage(folder: Path, file: Mapping[str, Any], deep: bool) -> str | None:
    """What is wrong with a file that a receipt names ({"name", "bytes", "sha256"}), or None."""
    path = folder / file["name"]
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    if size != file["bytes"]:
        return f"{path}: {size} bytes, expected {file['bytes']}"
    if deep and sha256_file(path) != file["sha256"]:
        return f"{path}: the content has changed (its SHA-256 is not the recorded one)"
    return None


def finish(root: Path, kind: str, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, remove the staging folder, and mark the directory as complete."""
    path = root / bookkeeping_name(kind, "manifest.json")
    write_json(path, manifest)
    shutil.rmtree(root / _STAGING, ignore_errors=True)
    write_json(root / _SUCCESS, {"manifest_sha256": sha256_file(path)})


def is_finished(root: Path) -> bool:
    """True once `finish` has marked the directory."""
    return (root / _SUCCESS).is_file()


def read_finished(root: Path, kind: str) -> dict[str, Any]:
    """The manifest of a complete directory; ArtefactError when it is missing, unfinished or damaged."""
    if not root.is_dir():
        raise ArtefactError(f"{root}: no such directory, expected {kind}")
    plan, manifest_path = (root / bookkeeping_name(kind, name) for name in ("plan.json", "manifest.json"))
    if not plan.is_file():
        raise ArtefactError(f"{root}: not a {kind} directory (it has no {plan.name})")
    found = read_json(plan)
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise ArtefactError(f"{root}: holds {_kind_of(found)}, not {kind}")
    if not is_finished(root):
        raise ArtefactError(f"{root}: unfinished (it has no {_SUCCESS}); {_HOW_TO_GO_ON[kind]}")
    mark, manifest = read_json(root / _SUCCESS), read_json(manifest_path)
    if not isinstance(mark, dict) or mark.get("manifest_sha256") != sha256_file(manifest_path):
        raise ArtefactError(f"{manifest_path}: changed since the directory was finished; build it again")
    if not isinstance(manifest, dict) or manifest.get("plan_id") != found.get("plan_id"):
        raise ArtefactError(f"{manifest_path}: of another run than {plan}; build it again")
    return manifest


def _plan_id(kind: str, protocol: Any, plan: Any) -> str:
    return sha256_json({"kind": kind, "protocol": protocol, "plan": plan})


def _plan_of(path: Path, kind: str) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise ArtefactError(f"{path.parent}: holds {_kind_of(found)}, not {kind}; choose another directory")
    return found


def _kind_of(plan: Any) -> str:
    kind = plan.get("kind") if isinstance(plan, dict) else None
    return kind if isinstance(kind, str) else "something else"


def _refuse_foreign_files(root: Path) -> None:
    ours = {_LOCK, _STAGING, _LOGS, f"_{_LOGS}"}
    names = (entry.name for entry in root.iterdir() if entry.name not in ours)
    foreign = sorted(name for name in names if not is_leftover(name))
    if foreign:
        raise ArtefactError(
            f"{root}: not empty and not ours (it holds {foreign[0]!r}); choose a new or an empty directory"
        )
