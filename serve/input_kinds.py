"""Which kind of inputs an IMAGES argument means."""

import os
from collections.abc import Sequence
from pathlib import Path

from convnext_imagenet.records.files import read_json
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.input_files import list_folder, list_store, read_list
from convnext_imagenet.serve.input_records import open_split
from convnext_imagenet.serve.input_tables import TABLE_ENDINGS, open_table
from convnext_imagenet.serve.input_tars import list_tars
from convnext_imagenet.serve.inputs import Inputs

_LIST_ENDINGS = (".txt", ".lst")


def open_inputs(images: str, wnids: Sequence[str], split: str = "val", column: str = "") -> Inputs:
    """The inputs that `images` names: a folder, a RECORDS directory (its `split`), a URI of a store, or a file.

    `wnids` are the network's classes by index, in which labels are told where the inputs know them.

    A file is a tar, a table (`column` of it), or a list of paths; a folder that holds nothing but tars means these.
    Raises ServeError for what is none of these or holds nothing, RecordsError for damaged records.
    """
    if "://" in images:
        return list_store(images)
    path = Path(images)
    if path.is_dir():
        return _open_folder(path, split, wnids)
    if not path.exists():
        raise ServeError(f"{path}: no such file or directory")
    ending = path.suffix.lower()
    if ending == ".tar":
        return list_tars([path])
    if ending in TABLE_ENDINGS:
        return open_table(path, column)
    if ending in _LIST_ENDINGS:
        return read_list(path)
    known = ", ".join([".tar", *TABLE_ENDINGS, *_LIST_ENDINGS])
    raise ServeError(
        f"{path}: a file that is none of {known}; give a folder of images, or one of these "
        f"(for single images there is `convnext-serve infer`)"
    )


def _open_folder(path: Path, split: str, wnids: Sequence[str]) -> Inputs:
    plan = path / "plan.json"
    if plan.is_file():
        found = read_json(plan)
        if isinstance(found, dict) and found.get("kind") == "records":
            return open_split(path, split, wnids)
    tars = _tars_alone(path)
    return list_tars(tars) if tars else list_folder(path)


def _tars_alone(folder: Path) -> list[Path]:
    """The tars in a folder that shows nothing else, sorted; looks no further than the first other file."""
    tars = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not (entry.name.lower().endswith(".tar") and entry.is_file()):
                return []
            tars.append(Path(entry.path))
    return sorted(tars)
