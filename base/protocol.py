"""The publish-then-mark protocol that RECORDS, RUN and PREDICTIONS share.

A directory starts with `plan.json`, which says what it will contain. Each unit of work (a shard, a part, a checkpoint)
is written under its final base name in `.staging`, forced to disk, moved, and marked by a receipt, in this order.
`manifest.json` and then `_SUCCESS` end the work. So after a crash every unit with a receipt is whole, and nothing
half-written has a final name. This file knows nothing of images.

In PREDICTIONS and exports the names of plan, manifest and receipts start with an underscore: pyarrow, pandas and Spark
read a whole folder as Parquet and skip such names.
"""

import contextlib
import fcntl
import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from convnext_imagenet.base.plan_changes import Difference, describe, differences, way_back, with_values

log = logging.getLogger(__name__)

# Raise when plan, receipts, manifest or _SUCCESS mean something else: directories of the old version are then refused.
PROTOCOL_VERSION = 1
_FIRST_VERSION = "0.1.0"  # its plans do not name the version that started them
_SUCCESS = "_SUCCESS"
STAGED = ".staged"  # hides a staged file from patterns such as `**/*.parquet`, which look into hidden folders
_STAGING, _LOCK, _LOGS = ".staging", ".lock", "logs"
_HOW_TO_RESUME = {
    "records": "run the same `convnext-ingest build` again to resume it; "
    "if all shards are there but the source is gone: `convnext-records repair`",
    "run": "run the same `convnext-train run` again to resume it",
    "predictions": "run the same `convnext-serve predict` again to resume it",
    "audit": "run the same `convnext-records audit` again to resume it",
    "export": "run the same `convnext-records export` again to resume it",
}

_HOW_TO_MAKE = {
    "records": "`convnext-ingest build` makes records",
    "run": "`convnext-train run` makes one",
    "predictions": "`convnext-serve predict` makes predictions",
    "audit": "`convnext-records audit` makes one",
    "export": "`convnext-records export` makes one",
}
_HOW_TO_REPAIR = {
    "records": "run the same `convnext-ingest build` again with --repair",
    "run": "restore it from a copy, or train again",
    "predictions": "restore it from a copy, or predict again",
    "export": "run the same `convnext-records export` again, into another directory",
}


@contextlib.contextmanager
def exclusive(root: Path, lock_name: str = _LOCK) -> Iterator[None]:
    """Lock the directory for one writer; the kernel releases the lock when the process ends, even by a kill.

    A writer of other files than the artefact's own takes another `lock_name`.

    Raises ArtefactError while another process holds the lock, and when the directory cannot be created.
    """
    make_folder(root)
    with (root / lock_name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArtefactError(
                f"{root}: another process is writing here; wait for it to end, or choose another directory"
            ) from None
        except OSError as error:
            log.warning(
                "%s: the file system has no locks (%s); do not start a second writer here", root, error.strerror
            )
        yield


class OtherPlanError(ArtefactError):
    """A directory of another plan; `reason` says what differs, `way_back` how to resume it with other versions.

    `changed` holds the same differences one by one.
    """

    def __init__(self, root: object, changed: Sequence[Difference], begun_by: str) -> None:
        self.reason = f"belongs to another run {describe(changed)}"
        self.way_back = way_back(changed, begun_by)
        super().__init__(f"{root}: {self.reason}; choose another directory, or delete this one{self.way_back}")
        self.changed, self.begun_by = changed, begun_by


def begin(
    root: Path,
    kind: str,
    plan: Mapping[str, Any],
    neutral: Mapping[str, Any] | None = None,
    outside: Collection[str] = (),
    accepted: Mapping[str, Any] | None = None,
) -> str:
    """Write the plan of `root`, or compare it with the plan that is there; return the plan's id.

    `neutral` maps a dotted key of `plan` to the value that stands for it in a stored plan without the key. `outside`
    names dotted keys that only stored plans may have, with any value. `accepted` maps dotted keys of the stored plan to
    the values that now count instead, because somebody has accepted the change. A stored plan that differs only by
    such keys keeps its file and its id, which its receipts name (DECISIONS, 2026-11-28 and 2026-11-29).

    Raises OtherPlanError when the directory belongs to another plan (with the keys that differ), ArtefactError when it
    is of another kind, its plan was changed by hand, or it contains files that this protocol did not write.
    """
    make_folder(root)
    plan = json.loads(json.dumps(plan))  # as it will be read again: tuples become lists
    plan_id = _plan_id(kind, PROTOCOL_VERSION, plan)
    path = root / bookkeeping_name(kind, "plan.json")
    if not path.exists():
        _refuse_foreign_files(root)
        # Only for the error line: as a part of the id it would refuse every directory after every edit of the code.
        from importlib.metadata import version  # here: every worker of an ingest imports this file, and begins nothing

        begun_by = version("convnext_imagenet")
        content = {"kind": kind, "protocol": PROTOCOL_VERSION, "plan_id": plan_id, "plan": plan, "begun_by": begun_by}
        write_json(path, content)
        return plan_id
    found = _plan_of(path, kind)
    if found.get("plan_id") != _plan_id(kind, found.get("protocol"), found.get("plan")):
        raise ArtefactError(
            f"{path}: changed since it was written; restore it from a copy, choose another directory, "
            f"or delete this one"
        )
    stored = with_values(found["plan"], accepted or {})
    changed = differences(stored, plan, json.loads(json.dumps(neutral or {})), outside=outside)
    if found["protocol"] != PROTOCOL_VERSION:
        changed.append(Difference("protocol version", found["protocol"], PROTOCOL_VERSION))
    if changed:
        raise OtherPlanError(root, changed, found.get("begun_by", _FIRST_VERSION))
    return str(found["plan_id"])


def join(
    root: Path,
    kind: str,
    plan: Mapping[str, Any],
    neutral: Mapping[str, Any] | None = None,
    outside: Collection[str] = (),
    accepted: Mapping[str, Any] | None = None,
) -> str:
    """Return the id of `plan` in a directory that another process of the same job has started by `begin`.

    Raises ArtefactError when this process does not see the directory, or it has another plan.
    """
    if not (root / bookkeeping_name(kind, "plan.json")).exists():
        raise ArtefactError(
            f"{root}: the job's first process has created it, but this process does not see it; "
            f"choose a directory that all machines of the job share"
        )
    return begin(root, kind, plan, neutral, outside, accepted)


def check_begun_or_empty(root: Path, kind: str) -> None:
    """Raise ArtefactError for a directory that `begin` would refuse for any plan; write nothing."""
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not nearest.is_dir():
        raise ArtefactError(f"{root}: a file is in the way; choose another directory")
    path = root / bookkeeping_name(kind, "plan.json")
    if path.exists():
        _plan_of(path, kind)
    elif nearest == root:
        _refuse_foreign_files(root)


def logs_folder(root: Path, kind: str) -> Path:
    """Return the folder for the logs of a job that writes `root`."""
    return root / bookkeeping_name(kind, _LOGS)


def bookkeeping_name(kind: str, name: str) -> str:
    """Return the name of a protocol file (`plan.json`, a receipt) in a directory of this kind."""
    return f"_{name}" if kind in ("predictions", "export") else name


def staging(root: Path, writer: str = "") -> Path:
    """Return an empty folder for half-written units, on the file system of `root`; call it under `exclusive`.

    Processes that share one `exclusive` each pass a `writer` name, after one call without a name has emptied all.
    """
    folder = root / _STAGING / writer
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)  # a killed job's last process may still write here for a moment
    return folder


def publish(staged: Sequence[Path], folder: Path, unit: str, plan_id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Move finished files to `folder` under their own names, without STAGED, mark the unit, and return its receipt.

    Files are forced to disk before they move, the folder after, and the receipt comes last: a unit counts
    if and only if it has a receipt.
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
    """Return the receipt of a finished unit of this plan, or None when the unit must be made (again).

    `deep` compares the SHA-256 of the unit's files; otherwise only sizes are compared.
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
    """Return what is wrong with a file that a receipt names ({"name", "bytes", "sha256"}), or None."""
    path = folder / file["name"]
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    if size != file["bytes"]:
        return f"{path}: {size} bytes, expected {file['bytes']}"
    if deep and sha256_file(path) != file["sha256"]:
        return f"{path}: its content has changed (its SHA-256 is not the recorded one)"
    return None


def finish(root: Path, kind: str, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, remove the staging folder, and mark the directory as complete."""
    path = root / bookkeeping_name(kind, "manifest.json")
    write_json(path, manifest)
    shutil.rmtree(root / _STAGING, ignore_errors=True)
    write_json(root / _SUCCESS, {"manifest_sha256": sha256_file(path)})


def reopen(root: Path) -> None:
    """Take the mark of completeness away before anything changes: readers then see an unfinished directory."""
    (root / _SUCCESS).unlink(missing_ok=True)
    sync_folder(root)


def is_finished(root: Path) -> bool:
    """Return whether `finish` has marked the directory."""
    return (root / _SUCCESS).is_file()


def marked_digest(root: Path) -> str | None:
    """Return the SHA-256 of the manifest that a finished directory was marked with; None without a readable mark."""
    try:
        mark = read_json(root / _SUCCESS)
    except ArtefactError:
        return None
    return str(mark["manifest_sha256"]) if isinstance(mark, dict) and "manifest_sha256" in mark else None


def drop_receipt(folder: Path, unit: str) -> None:
    """Remove the receipt of a unit, which must be made again."""
    receipt = folder / f"{unit}.json"
    if receipt.exists():
        receipt.unlink()
        sync_folder(folder)


def read_finished(root: Path, kind: str) -> dict[str, Any]:
    """Return the manifest of a finished directory.

    Raises ArtefactError when the directory is missing, unfinished, damaged, or of another kind.
    """
    if not root.is_dir():
        raise ArtefactError(f"{root}: no such directory, expected {_one(kind)}; {_HOW_TO_MAKE[kind]}")
    plan, manifest_path = (root / bookkeeping_name(kind, name) for name in ("plan.json", "manifest.json"))
    if not plan.is_file():
        raise ArtefactError(
            f"{root}: not {_article(kind)} {kind} directory (it has no {plan.name}); {_HOW_TO_MAKE[kind]}"
        )
    found = read_json(plan)
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise ArtefactError(f"{root}: holds {_one(_kind_of(found))}, not {_one(kind)}; {_HOW_TO_MAKE[kind]}")
    if not is_finished(root):
        raise ArtefactError(f"{root}: unfinished (it has no {_SUCCESS}); {_HOW_TO_RESUME[kind]}")
    if not manifest_path.is_file():
        raise ArtefactError(f"{manifest_path}: missing; {_HOW_TO_REPAIR[kind]}")
    mark, manifest = read_json(root / _SUCCESS), read_json(manifest_path)
    if not isinstance(mark, dict) or mark.get("manifest_sha256") != sha256_file(manifest_path):
        raise ArtefactError(f"{manifest_path}: changed since the directory was finished; {_HOW_TO_REPAIR[kind]}")
    if not isinstance(manifest, dict) or manifest.get("plan_id") != found.get("plan_id"):
        raise ArtefactError(f"{manifest_path}: belongs to another run than {plan}; {_HOW_TO_REPAIR[kind]}")
    return manifest


def _plan_id(kind: str, protocol: Any, plan: Any) -> str:
    return sha256_json({"kind": kind, "protocol": protocol, "plan": plan})


def _plan_of(path: Path, kind: str) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise ArtefactError(f"{path.parent}: holds {_one(_kind_of(found))}, not {_one(kind)}; choose another directory")
    return found


def _one(kind: str) -> str:
    """Return the word for a directory of this kind, with its article."""
    return kind if kind.endswith("s") or " " in kind else f"{_article(kind)} {kind}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def kind_of(root: Path) -> str:
    """Return what the plan.json of a directory says that it holds, such as "records", with an article if it needs one.

    Raises ArtefactError for a plan.json that cannot be read.
    """
    return _one(_kind_of(read_json(root / "plan.json")))


def _kind_of(plan: Any) -> str:
    kind = plan.get("kind") if isinstance(plan, dict) else None
    return kind if isinstance(kind, str) else "something else"


def _refuse_foreign_files(root: Path) -> None:
    ours = {_LOCK, _STAGING, _LOGS, f"_{_LOGS}"}
    names = (entry.name for entry in root.iterdir() if entry.name not in ours)
    foreign = sorted(name for name in names if not is_leftover(name))
    for plan in (root / "plan.json", root / "_plan.json"):
        if plan.is_file():
            raise ArtefactError(f"{root}: holds {_one(_kind_of(read_json(plan)))}; choose a new or an empty directory")
    if foreign:
        raise ArtefactError(
            f"{root}: not empty, and not created by this program (it holds {foreign[0]!r}); "
            f"choose a new or an empty directory"
        )
