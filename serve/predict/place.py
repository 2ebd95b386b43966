"""Where PREDICTIONS are written: a folder of this machine, or a folder of a store such as s3://bucket/predictions.

Both keep the promises of the publish-then-mark protocol (base/protocol.py). A store has no renames, but an object
appears as a whole or not at all; so a part is uploaded, then its receipt, and `_SUCCESS` last. A store has no locks
either (DECISIONS, 2026-11-29).
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from convnext_imagenet.base import protocol
from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.files import is_leftover, make_folder, read_json, write_json
from convnext_imagenet.base.protocol import STAGED, OtherPlanError, bookkeeping_name
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.base.stores import StoreFolder, open_folder
from convnext_imagenet.serve.inputs.inputs import Inputs

_KIND = "predictions"
log = logging.getLogger(__name__)
_LOCK_FILE, _LOCK_RENEWAL_S = "_lock.json", 15.0
_READERS = 32  # of receipts: a store answers in tens of milliseconds


class Place(Protocol):
    """A PREDICTIONS directory wherever it is; `str` names it in messages. Units and ids are those of the protocol."""

    def check(self) -> None:
        """Raise ArtefactError when `begin` would refuse the place for any plan; write nothing."""

    def begin(self, plan: Mapping[str, Any]) -> str:
        """Write the plan or compare it with the plan that is there; return its id. Raises ArtefactError."""

    def join(self, plan: Mapping[str, Any]) -> str:
        """Return the id of a plan that another process of the same job has begun. Raises ArtefactError."""

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Reserve the place for one writer. Raises ArtefactError while another one writes there."""

    def clear(self) -> None:
        """Remove what a killed process left unfinished."""

    def staging(self, writer: str) -> Path:
        """Return an empty folder of this machine for the parts that `writer` is writing."""

    def publish(self, staged: Path, unit: str, plan_id: str, facts: Mapping[str, Any]) -> None:
        """Give a staged part its name, then mark it by a receipt."""

    def receipts(self, units: Sequence[str], plan_id: str) -> list[Any]:
        """Return the receipt of each unit that is whole, else None."""

    def read(self, name: str) -> Any:
        """Return the JSON value of a bookkeeping file, or None without one."""

    def write(self, name: str, value: Any) -> None:
        """Write a bookkeeping file."""

    def open_part(self, name: str) -> pa.NativeFile:
        """Return the file of a part, open for reading."""

    def reopen(self) -> None:
        """Take the mark of completeness away."""

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, then the mark of completeness."""

    def lies_in(self, inputs: Inputs) -> bool:
        """Return whether files here would become inputs."""


def open_place(out: Path | str) -> "LocalPlace | StorePlace":
    """Return the place of a path or a URI. Raises ArtefactError for a store that cannot be opened."""
    if isinstance(out, str) and is_uri(out):
        folder = open_folder(out)
        return LocalPlace(Path(folder.path)) if folder.is_local else StorePlace(folder)
    return LocalPlace(Path(out))


@dataclass(frozen=True)
class LocalPlace:
    """A folder of this machine: every step is one of the protocol."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def check(self) -> None:
        """Raise ArtefactError when `begin` would refuse the place for any plan."""
        protocol.check_begun_or_empty(self.root, _KIND)

    def begin(self, plan: Mapping[str, Any]) -> str:
        """Write or compare the plan; return its id."""
        return protocol.begin(self.root, _KIND, plan)

    def join(self, plan: Mapping[str, Any]) -> str:
        """Return the id of a plan that another process has begun."""
        return protocol.join(self.root, _KIND, plan)

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Lock the folder."""
        return protocol.exclusive(self.root)

    def clear(self) -> None:
        """Remove what a process that was killed while it wrote a receipt has left, and the staging folder's content."""
        for path in self.root.iterdir():
            if is_leftover(path.name):
                path.unlink(missing_ok=True)
        protocol.staging(self.root)

    def staging(self, writer: str) -> Path:
        """Return an empty folder for the parts of `writer`."""
        return protocol.staging(self.root, writer)

    def publish(self, staged: Path, unit: str, plan_id: str, facts: Mapping[str, Any]) -> None:
        """Name a staged part, then mark it by a receipt."""
        protocol.publish([staged], self.root, unit, plan_id, facts)

    def receipts(self, units: Sequence[str], plan_id: str) -> list[Any]:
        """Return the receipts of the units whose files have the recorded SHA-256, else None."""
        return [protocol.read_receipt(self.root, unit, plan_id, deep=True) for unit in units]

    def read(self, name: str) -> Any:
        """Return the JSON value of a bookkeeping file, or None."""
        path = self.root / bookkeeping_name(_KIND, name)
        return read_json(path) if path.exists() else None

    def write(self, name: str, value: Any) -> None:
        """Write a bookkeeping file."""
        write_json(self.root / bookkeeping_name(_KIND, name), value)

    def open_part(self, name: str) -> pa.NativeFile:
        """Return the file of a part, open for reading."""
        return pa.OSFile(str(self.root / name))

    def reopen(self) -> None:
        """Take the mark of completeness away."""
        protocol.reopen(self.root)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, then the mark."""
        protocol.finish(self.root, _KIND, manifest)

    def lies_in(self, inputs: Inputs) -> bool:
        """Return whether files here would become inputs."""
        return inputs.is_inside(self.root)


@dataclass(frozen=True)
class StorePlace:
    """A folder of a store. Its files are those of a local PREDICTIONS directory, byte for byte."""

    root: StoreFolder
    _local: tempfile.TemporaryDirectory = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="convnext-predict-"), compare=False, repr=False
    )

    def __str__(self) -> str:
        return str(self.root)

    def check(self) -> None:
        """Raise ArtefactError when `begin` would refuse the place for any plan."""
        names = self._sizes()
        if names and "_plan.json" not in names:
            raise ArtefactError(
                f"{self}: not empty, and not created by this program (it holds {min(names)!r}); "
                f"choose a new or an empty folder"
            )

    def begin(self, plan: Mapping[str, Any]) -> str:
        """Write or compare the plan; return its id."""
        self.check()
        return self._compared(protocol.begin, plan)

    def join(self, plan: Mapping[str, Any]) -> str:
        """Return the id of a plan that another process has begun."""
        return self._compared(protocol.join, plan)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep a note of this writer in the store, and renew it, until the end.

        A second writer that starts while the note is renewed is refused. Two that start at the same moment may not see
        each other; they write equal bytes, because the plan decides them.
        """
        self._wait_for_the_last_writer()
        mine, ended = uuid.uuid4().hex, threading.Event()
        self._note(mine, 0)
        renewal = threading.Thread(target=self._renew, args=(mine, ended), daemon=True)
        renewal.start()
        try:
            yield
        finally:
            ended.set()
            renewal.join(_LOCK_RENEWAL_S)
            with contextlib.suppress(ArtefactError):
                self.root.remove(_LOCK_FILE)

    def clear(self) -> None:
        """Do nothing: an upload that was cut off leaves no object."""

    def staging(self, writer: str) -> Path:
        """Return an empty folder for the parts of `writer`."""
        folder = Path(self._local.name) / writer
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def publish(self, staged: Path, unit: str, plan_id: str, facts: Mapping[str, Any]) -> None:
        """Name a staged part, then mark it by a receipt."""
        name, data = staged.name.removesuffix(STAGED), staged.read_bytes()
        file = {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self._upload(name, data)
        self._upload(
            f"{unit}.json", _json_bytes({"unit": unit, "plan_id": plan_id, "files": [file], "facts": dict(facts)})
        )
        staged.unlink()

    def receipts(self, units: Sequence[str], plan_id: str) -> list[Any]:
        """Return the receipts of the units whose files have the recorded sizes, else None; `verify` reads the bytes."""
        sizes = self._sizes()
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda unit: self._json(f"{unit}.json") if f"{unit}.json" in sizes else None, units)
            return [
                receipt if _is_whole(receipt, unit, plan_id, sizes) else None
                for unit, receipt in zip(units, found, strict=True)
            ]

    def read(self, name: str) -> Any:
        """Return the JSON value of a bookkeeping file, or None."""
        return self._json(bookkeeping_name(_KIND, name))

    def write(self, name: str, value: Any) -> None:
        """Write a bookkeeping file."""
        self._upload(bookkeeping_name(_KIND, name), _json_bytes(value))

    def open_part(self, name: str) -> pa.NativeFile:
        """Return the file of a part, open for reading."""
        return pa.BufferReader(self.root.read(name))

    def reopen(self) -> None:
        """Take the mark of completeness away."""
        self.root.remove("_SUCCESS")

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Upload the files that `protocol.finish` writes, in its order."""
        folder = self.staging("finish")
        protocol.finish(folder, _KIND, manifest)
        for name in ("_manifest.json", "_SUCCESS"):
            self._upload(name, (folder / name).read_bytes())

    def lies_in(self, inputs: Inputs) -> bool:
        """Return whether files here would become inputs."""
        inside = getattr(inputs, "holds", None)
        return inside is not None and inside(self.root)

    def download(self, folder: Path) -> None:
        """Copy everything into a folder of this machine. Raises ArtefactError for a folder of anything else."""
        names = sorted(self._sizes())
        if "_plan.json" not in names:
            raise ArtefactError(f"{self}: not a predictions directory (it has no _plan.json)")
        for name in names:
            make_folder((folder / name).parent)
            self.root.download(name, folder / name)

    def _compared(self, compare: Callable[[Path, str, Mapping[str, Any]], str], plan: Mapping[str, Any]) -> str:
        """Return what begin or join of the protocol says about the plan here; upload a plan that it writes."""
        folder, name = self.staging("plan"), "_plan.json"
        stored = self._json(name)
        if stored is not None:
            write_json(folder / name, stored)
        try:
            plan_id = compare(folder, _KIND, plan)
        except OtherPlanError:
            raise
        except ArtefactError as error:
            raise type(error)(str(error).replace(str(folder), str(self))) from None
        if stored is None:
            self._upload(name, (folder / name).read_bytes())
        return plan_id

    def _wait_for_the_last_writer(self) -> None:
        """Return when the last writer has ended. Raises ArtefactError when it still renews its note."""
        note = self._json(_LOCK_FILE)
        if note is None or _has_ended(note):
            return
        who, pause_s = f"{note.get('host')}, process {note.get('pid')}", 3 * _LOCK_RENEWAL_S
        log.info("%s: waiting %g s to see whether another process (%s) still writes here", self, pause_s, who)
        time.sleep(pause_s)
        if self._json(_LOCK_FILE) != note:
            raise ArtefactError(
                f"{self}: another process is writing here (on {note.get('host')}); wait for it to end, "
                f"or choose another folder"
            )

    def _note(self, owner: str, renewals: int) -> None:
        self._upload(_LOCK_FILE, _json_bytes({"owner": owner, "renewals": renewals, **_this_process()}))

    def _renew(self, owner: str, ended: threading.Event) -> None:
        renewals = 0
        while not ended.wait(_LOCK_RENEWAL_S):
            renewals += 1
            with contextlib.suppress(ArtefactError):  # the next upload of a part says so, if the store stays away
                self._note(owner, renewals)

    def _sizes(self) -> dict[str, int]:
        """Return the sizes of the files below the folder by name, without the note of a writer."""
        return {name: size for name, size in self.root.sizes().items() if name not in ("", _LOCK_FILE)}

    def _json(self, name: str) -> Any:
        """Return the JSON value in a file, or None without one."""
        try:
            return json.loads(self.root.read(name))
        except FileNotFoundError:
            return None
        except ValueError:
            raise ArtefactError(f"{self}/{name}: not valid JSON; the file is damaged, restore it from a copy") from None

    def _upload(self, name: str, data: bytes) -> None:
        """Store an object, and see that it is there as a whole. Raises FailedError when it is not."""
        self.root.write(name, data)
        if (found := self.root.size(name)) != len(data):
            raise FailedError(
                f"{self}/{name}: has {found} bytes after an upload of {len(data)}; run the same command again to resume"
            )


def _json_bytes(value: Any) -> bytes:
    """Return a JSON value as `write_json` writes it."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _is_whole(receipt: Any, unit: str, plan_id: str, sizes: Mapping[str, int]) -> bool:
    """Return whether a receipt is of this unit and plan, and its files have the recorded sizes."""
    try:
        is_ours = receipt["plan_id"] == plan_id and receipt["unit"] == unit
        return is_ours and all(sizes.get(file["name"]) == file["bytes"] for file in receipt["files"])
    except (KeyError, TypeError):
        return False


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _has_ended(note: Mapping[str, Any]) -> bool:
    """Return whether the writer of a note was a process of this machine that has ended."""
    if note.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(note["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, ValueError):
        return False
    return False
