"""Decides which kind of inputs an IMAGES argument means. A new kind is one entry in FILE_KINDS or FOLDER_KINDS."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convnext_imagenet.base.files import read_json
from convnext_imagenet.base.image_tables import SPLITS_FILE, STATE_FILE
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import LIST_ENDINGS, is_hidden, list_folder, list_store, read_list
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.serve.inputs.saved_dataset import open_saved_dataset
from convnext_imagenet.serve.inputs.storage import StoredFile, ending, list_files, local_file, parse_uri
from convnext_imagenet.serve.inputs.tables import TABLE_ENDINGS, open_tables
from convnext_imagenet.serve.inputs.tars import TAR_ENDINGS, list_tars


@dataclass(frozen=True)
class Request:
    """What the user asked for: IMAGES, and what to choose in it.

    `wnids` are the network's classes by index: labels become indices into them, if the inputs know labels.
    """

    images: str
    wnids: Sequence[str]
    split: str
    column: str


@dataclass(frozen=True)
class FileKind:
    """A kind of file, recognised by its ending.

    `open` gets files of this kind, the request, and the folder that holds only them, if any. `is_container`: a folder
    that holds only such files means their contents. `has_columns`: --column chooses in them.
    """

    endings: tuple[str, ...]
    open: Callable[[Sequence[StoredFile], Request, Path | None], Inputs]
    is_container: bool = True
    has_columns: bool = False


# Opens a folder of this machine that a file in it identifies; returns None for a folder of another kind.
FolderKind = Callable[[Path, Request], Inputs | None]


def _open_records(path: Path, request: Request) -> Inputs | None:
    plan = path / "plan.json"
    content = read_json(plan) if plan.is_file() else None
    if not isinstance(content, dict) or content.get("kind") != "records":
        return None
    _refuse_column(request)
    return open_split(path, request.split, request.wnids)


def _open_saved_dataset(path: Path, request: Request) -> Inputs | None:
    is_saved = any((path / name).is_file() for name in (STATE_FILE, SPLITS_FILE))
    return open_saved_dataset(local_file(path), request.column, path) if is_saved else None


# Each ending belongs to one kind, so the order does not matter.
FILE_KINDS = (
    FileKind(TAR_ENDINGS, lambda files, request, folder: list_tars(files, folder)),
    FileKind(
        TABLE_ENDINGS, lambda files, request, folder: open_tables(files, request.column, folder), has_columns=True
    ),
    FileKind(LIST_ENDINGS, lambda files, request, folder: read_list(files[0]), is_container=False),
)
FOLDER_KINDS: tuple[FolderKind, ...] = (_open_records, _open_saved_dataset)


def open_inputs(images: str, wnids: Sequence[str], split: str = "val", column: str = "") -> Inputs:
    """Return the inputs of `images`: a folder, a RECORDS directory (its `split`), or a file; a path or a URI.

    A file is a tar, a table (its `column`), or a list of paths. A folder that holds only tars, or only tables, means
    their contents; so does a folder that Hugging Face's `save_to_disk` wrote. `wnids` are the network's classes by
    index: labels become indices into them, if the inputs know labels.

    Raises ServeError for anything else, for inputs that are empty and for a `column` without a table; ArtefactError
    for damaged records.
    """
    request = Request(images, wnids, split, column)
    root = parse_uri(images) if "://" in images else None
    if root and not root.is_local:
        return _open_stored(root, request)
    path = Path(root.path if root else images)
    if path.is_dir():
        return _open_folder(path, request)
    if not path.exists():
        raise ServeError(f"{path}: no such file or directory; give a folder of images, a list, a tar or a table")
    if not path.is_file():
        raise ServeError(f"{path}: not a regular file; give a folder of images, a list, a tar or a table")
    return _open_file(local_file(path), request)


def _open_stored(root: StoredFile, request: Request) -> Inputs:
    """Return the inputs at a path of a store, a file or a folder."""
    files = list_files(root)
    if [info.path for info in files] == [root.path]:
        return _open_file(root, request)
    names = [PurePosixPath(info.path).relative_to(root.path).as_posix() for info in files]
    is_saved_dataset = not {STATE_FILE, SPLITS_FILE}.isdisjoint(names)
    if is_saved_dataset and (inputs := open_saved_dataset(root, request.column)) is not None:
        return inputs
    kind, names_of_kind = _container_kind(name for name in names if not is_hidden(name.encode()))
    if kind:
        return _open_kind(kind, [root / name for name in names_of_kind], request)
    _refuse_column(request)
    return list_store(root, files)


def _open_folder(path: Path, request: Request) -> Inputs:
    for open_if_known in FOLDER_KINDS:
        if (inputs := open_if_known(path, request)) is not None:
            return inputs
    with os.scandir(path) as entries:
        visible = (entry for entry in entries if not entry.name.startswith("."))
        kind, names = _container_kind(entry.name if entry.is_file() else "" for entry in visible)
    if kind:
        return _open_kind(kind, [local_file(path / name) for name in names], request, path)
    _refuse_column(request)
    return list_folder(path)


def _open_file(file: StoredFile, request: Request) -> Inputs:
    for kind in FILE_KINDS:
        if file.ending in kind.endings:
            return _open_kind(kind, [file], request)
    known = ", ".join(known_ending for kind in FILE_KINDS for known_ending in kind.endings)
    raise ServeError(
        f"{file}: the ending is none of {known}; give a folder of images or one of these files "
        f"(for single images use `convnext-serve infer`)"
    )


def _open_kind(kind: FileKind, files: Sequence[StoredFile], request: Request, folder: Path | None = None) -> Inputs:
    if not kind.has_columns:
        _refuse_column(request)
    return kind.open(files, request, folder)


def _refuse_column(request: Request) -> None:
    if request.column:
        raise ServeError(
            f"{request.images}: not a table, so --column {request.column!r} has nothing to choose; leave it out"
        )


def _container_kind(names: Iterable[str]) -> tuple[FileKind | None, list[str]]:
    """Return the kind of container that all names of a folder share, and the sorted names; else (None, []).

    Stops at the first other name: a folder may hold a million images.
    """
    kinds = [kind for kind in FILE_KINDS if kind.is_container]
    names_of_kind = []
    for name in names:
        kinds = [kind for kind in kinds if ending(name) in kind.endings and "/" not in name]
        if not kinds:
            return None, []
        names_of_kind.append(name)
    return (kinds[0], sorted(names_of_kind)) if names_of_kind else (None, [])
