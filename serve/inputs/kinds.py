"""Which kind of inputs an IMAGES argument means."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from convnext_imagenet.base.files import read_json
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import is_hidden, list_folder, list_store, read_list
from convnext_imagenet.serve.inputs.inputs import Inputs, Joined
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.serve.inputs.storage import StoredFile, ending, files_at, here, locate
from convnext_imagenet.serve.inputs.tables import TABLE_ENDINGS, Column, open_table
from convnext_imagenet.serve.inputs.tars import TAR_ENDINGS, Members, list_tars

_LIST_ENDINGS = (".txt", ".lst")


def open_inputs(images: str, wnids: Sequence[str], split: str = "val", column: str = "") -> Inputs:
    """The inputs that `images` names: a folder, a RECORDS directory (its `split`), or a file; here or by a URI.

    `wnids` are the network's classes by index, in which labels are told where the inputs know them.

    A file is a tar, a table (`column` of it), or a list of paths; a folder that holds nothing but tars, or nothing but
    tables, means what is in these. Raises ServeError for what is none of these or holds nothing, ArtefactError for
    damaged records.
    """
    inputs = _open(images, wnids, split, column)
    if column and not isinstance(inputs, Column | Joined):
        raise ServeError(f"{images}: --column {column!r} chooses among a table's columns, and this is no table")
    return inputs


def _open(images: str, wnids: Sequence[str], split: str, column: str) -> Inputs:
    place = locate(images) if "://" in images else None
    if place and not place.is_local:
        return _open_place(place, column)
    path = Path(place.path if place else images)
    if path.is_dir():
        return _open_folder(path, split, wnids, column)
    if not path.exists():
        raise ServeError(f"{path}: no such file or directory")
    if not path.is_file():
        raise ServeError(f"{path}: not a regular file; give a folder of images, a list, a tar or a table")
    return _open_file(here(path), column)


def _open_file(file: StoredFile, column: str) -> Inputs:
    if ending(file.name) in _LIST_ENDINGS:
        return read_list(file)
    if ending(file.name) in (*TAR_ENDINGS, *TABLE_ENDINGS):
        return _open_all([file], column)
    known = ", ".join([*TAR_ENDINGS, *TABLE_ENDINGS, *_LIST_ENDINGS])
    raise ServeError(
        f"{file}: a file that is none of {known}; give a folder of images, or one of these "
        f"(for single images there is `convnext-serve infer`)"
    )


def _open_all(files: Sequence[StoredFile], column: str) -> Members | Column | Joined:
    """Tars, or tables, as one."""
    if ending(files[0].name) in TAR_ENDINGS:
        return list_tars(files)
    tables = tuple(open_table(file, column) for file in files)
    return tables[0] if len(tables) == 1 else Joined(tables)


def _open_place(place: StoredFile, column: str) -> Inputs:
    found = files_at(place)
    if [info.path for info in found] == [place.path]:
        return _open_file(place, column)
    inside = (PurePosixPath(info.path).relative_to(place.path).as_posix() for info in found)
    packed = _packed(name for name in inside if not is_hidden(name.encode()))
    return _open_all([place / name for name in packed], column) if packed else list_store(place, found)


def _open_folder(path: Path, split: str, wnids: Sequence[str], column: str) -> Inputs:
    plan = path / "plan.json"
    if plan.is_file():
        found = read_json(plan)
        if isinstance(found, dict) and found.get("kind") == "records":
            return open_split(path, split, wnids)
    with os.scandir(path) as entries:
        visible = (entry for entry in entries if not entry.name.startswith("."))
        names = _packed(entry.name if entry.is_file() else "" for entry in visible)
    if not names:
        return list_folder(path)
    return replace(_open_all([here(path / name) for name in names], column), folder=path)


def _packed(names: Iterable[str]) -> list[str]:
    """The names, sorted, if all are tars or all are tables of one folder; looks no further than the first other."""
    kinds = [TAR_ENDINGS, TABLE_ENDINGS]
    packed = []
    for name in names:
        kinds = [endings for endings in kinds if ending(name) in endings and "/" not in name]
        if not kinds:
            return []
        packed.append(name)
    return sorted(packed)
