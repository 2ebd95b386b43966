"""Where RECORDS lie: a folder of this machine, or a folder of a store such as s3://bucket/records. Opens no shard."""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.base.stores import ReadAt, StoreFolder, local_reader, open_folder
from convnext_imagenet.records.index import INDEX_FILE
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.schema import HOW_TO_REPAIR


class Place(Protocol):
    """A finished RECORDS directory to read from; `str` names it in messages."""

    def manifest(self) -> Manifest:
        """Return the manifest. Raises ArtefactError for what is missing, unfinished, damaged or of another kind."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a file below it. Raises ArtefactError when it is missing."""

    def size(self, name: str) -> int:
        """Return the size of a file below it in bytes. Raises ArtefactError when it is missing."""

    def reader(self, name: str) -> ReadAt:
        """Return a function that reads a file below it from any offset."""


@dataclass(frozen=True)
class LocalPlace:
    """RECORDS on this machine."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def manifest(self) -> Manifest:
        """Return the manifest. Raises ArtefactError for what is missing, unfinished, damaged or of another kind."""
        return _parsed(self, read_finished(self.root, "records"))

    def read(self, name: str) -> bytes:
        """Return the bytes of a file below it. Raises ArtefactError when it is missing."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            raise _missing(self, name) from None

    def size(self, name: str) -> int:
        """Return the size of a file below it in bytes. Raises ArtefactError when it is missing."""
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            raise _missing(self, name) from None

    def reader(self, name: str) -> ReadAt:
        """Return a function that reads a file below it from any offset."""
        try:
            return local_reader(self.root / name)
        except FileNotFoundError:
            raise _missing(self, name) from None


@dataclass(frozen=True)
class StorePlace:
    """RECORDS in a store. It is pickled by its address, so that it opens a connection of its own in each process."""

    uri: str

    def __post_init__(self) -> None:
        _ = self.folder

    def __reduce__(self) -> Any:
        return StorePlace, (self.uri,)

    def __str__(self) -> str:
        return str(self.folder)

    __repr__ = __str__

    @property
    def folder(self) -> StoreFolder:
        """The folder in its store."""
        return _folder_of_process(self.uri, os.getpid())

    def manifest(self) -> Manifest:
        """Return the manifest. Raises ArtefactError for what is missing, unfinished, damaged or of another kind."""
        return _parsed(self, json.loads(self.checked_manifest()))

    def checked_manifest(self) -> bytes:
        """Return the bytes of manifest.json. Raises ArtefactError unless `_SUCCESS` names their digest."""
        try:
            plan, mark = (json.loads(self.folder.read(name)) for name in ("plan.json", "_SUCCESS"))
            data = self.folder.read("manifest.json")
            if plan["kind"] != "records":
                raise ArtefactError(f"{self}: holds {plan['kind']}, not records")
            if mark["manifest_sha256"] != hashlib.sha256(data).hexdigest():
                raise ArtefactError(f"{self}/manifest.json: changed since the directory was finished; push it again")
            if json.loads(data)["plan_id"] != plan["plan_id"]:
                raise ArtefactError(f"{self}/manifest.json: belongs to another run than plan.json; push it again")
        except FileNotFoundError as error:
            raise ArtefactError(
                f"{error}; these are no RECORDS, or half of them: run `convnext-records push` again to resume it"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"{self}: its plan, manifest or mark is damaged ({error}); push it again") from None
        return data

    def read(self, name: str) -> bytes:
        """Return the bytes of a file below it. Raises ArtefactError when it is missing."""
        try:
            return self.folder.read(name)
        except FileNotFoundError as error:
            raise ArtefactError(f"{error}; push the records again") from None

    def size(self, name: str) -> int:
        """Return the size of a file below it in bytes. Raises ArtefactError when it is missing."""
        try:
            return self.folder.size(name)
        except FileNotFoundError as error:
            raise ArtefactError(f"{error}; push the records again") from None

    def reader(self, name: str) -> ReadAt:
        """Return a function that reads a file below it from any offset."""
        return lambda offset, size: self.folder.reader(name)(offset, size)


@functools.lru_cache(maxsize=8)
def _folder_of_process(uri: str, process: int) -> StoreFolder:
    """Return the folder of a URI; connections and threads of a store do not survive a fork."""
    return open_folder(uri)


def place_of(records: str | os.PathLike[str]) -> Place:
    """Return the place of a path or a URI. Raises ArtefactError for a URI of an unknown store."""
    if is_uri(records):
        return StorePlace(as_uri(records))
    return LocalPlace(Path(records))


def index_bytes(place: Place, manifest: Manifest) -> bytes:
    """Return the bytes of index.parquet. Raises ArtefactError unless they are those of the manifest."""
    data = place.read(INDEX_FILE)
    if hashlib.sha256(data).hexdigest() != manifest.files.get(INDEX_FILE):
        reason = "missing or changed since the records were finished"
        raise ArtefactError(f"{place}/{INDEX_FILE}: {reason}; {HOW_TO_REPAIR}")
    return data


def as_uri(records: str | os.PathLike[str]) -> str:
    """Return a URI as it was typed: `Path` makes one slash of the two behind its scheme."""
    scheme, _, rest = os.fspath(records).partition(":")
    return f"{scheme}://{rest.lstrip('/')}" if scheme != "file" else f"file:///{rest.lstrip('/')}"


def _parsed(place: Place, value: dict[str, Any]) -> Manifest:
    try:
        return Manifest.from_json(value)
    except ArtefactError as error:
        raise ArtefactError(f"{place}: {error}") from None


def _missing(place: Place, name: str) -> ArtefactError:
    return ArtefactError(f"{place}/{name}: missing; {HOW_TO_REPAIR}")
