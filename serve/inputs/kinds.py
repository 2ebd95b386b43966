"""Decides which kind of inputs an IMAGES argument means. A new kind is one entry in FILE_KINDS or FOLDER_KINDS."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from convnext_imagenet.base.files import read_json
from convnext_imagenet.base.image_tables import SPLITS_FILE, STATE_FILE
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.base.uris import public_uri
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import LIST_ENDINGS, is_hidden, list_folder, list_store, read_list
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.inputs.labels import ClassLookup, class_lookup
from convnext_imagenet.serve.inputs.layout import ALL_FILES, Patterns, container_kind
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.serve.inputs.saved_dataset import open_saved_dataset
from convnext_imagenet.serve.inputs.storage import StoredFile, list_files, local_file, parse_uri
from convnext_imagenet.serve.inputs.tables import TABLE_ENDINGS, Columns, open_tables
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
    patterns: Patterns = ALL_FILES
    keep: tuple[str, ...] = ()
    label_column: str = ""
    names: Sequence[str] = ()

    @property
    def columns(self) -> Columns:
        """Return the columns of a table that were asked for."""
        return Columns(self.column, self.keep, self.label_column, self.classes)

    @property
    def classes(self) -> ClassLookup:
        """Return the network's classes by wnid and name."""
        return class_lookup(self.wnids, self.names)


@dataclass(frozen=True)
class FileKind:
    """A kind of file, recognised by its ending.

    `open` gets files of this kind, the request, and the folder that holds only them, if any. `is_container`: a folder
    that holds only such files means their contents. `has_columns`: --column chooses in them. `has_names`: --include and
    --exclude choose in them.
    """

    name: str
    endings: tuple[str, ...]
    open: Callable[[Sequence[StoredFile], Request, Path | None], Inputs]
    is_container: bool = True
    has_columns: bool = False
    has_names: bool = True


# Opens a folder of this machine that a file in it identifies; returns None for a folder of another kind.
FolderKind = Callable[[Path, Request], Inputs | None]


def _open_records(path: Path, request: Request) -> Inputs | None:
    plan = path / "plan.json"
    content = read_json(plan) if plan.is_file() else None
    if not isinstance(content, dict) or content.get("kind") != "records":
        return None
    _refuse_column(request)
    _refuse_patterns(request, request.patterns)
    return open_split(path, request.split, request.wnids)


def _open_predictions(path: Path, request: Request) -> Inputs | None:
    if (path / "_plan.json").is_file() and not request.column:
        raise ServeError(
            f"{path}: PREDICTIONS name images and hold none; give the images that were scored, "
            f"or pass --column source if these are whole paths or URIs"
        )
    return None


def _open_saved_dataset(path: Path, request: Request) -> Inputs | None:
    if not any((path / name).is_file() for name in (STATE_FILE, SPLITS_FILE)):
        return None
    inputs = open_saved_dataset(local_file(path), request.columns, path)
    if inputs is not None:
        _refuse_patterns(request, request.patterns)
    return inputs


def _open_tars(files: Sequence[StoredFile], request: Request, folder: Path | None) -> Inputs:
    return list_tars(files, folder, request.patterns, request.classes)


def _open_tables(files: Sequence[StoredFile], request: Request, folder: Path | None) -> Inputs:
    return open_tables(files, request.columns, folder)


def _open_list(files: Sequence[StoredFile], request: Request, folder: Path | None) -> Inputs:
    return replace(read_list(files[0], request.patterns), classes=request.classes)


# Each ending belongs to one kind, so the order does not matter.
FILE_KINDS = (
    FileKind("tar", TAR_ENDINGS, _open_tars),
    FileKind("table", TABLE_ENDINGS, _open_tables, has_columns=True, has_names=False),
    FileKind("list", LIST_ENDINGS, _open_list, is_container=False),
)
FOLDER_KINDS: tuple[FolderKind, ...] = (_open_records, _open_predictions, _open_saved_dataset)


def open_inputs(
    images: str,
    wnids: Sequence[str],
    split: str = "val",
    column: str = "",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    keep: Sequence[str] = (),
    label_column: str = "",
    names: Sequence[str] = (),
) -> Inputs:
    """Return the inputs of `images`: a folder, a RECORDS directory (its `split`), or a file; a path or a URI.

    A file is a tar, a table (its `column`), or a list of paths. A folder that holds only tars, or only tables, means
    their contents; so does a folder that Hugging Face's `save_to_disk` wrote. `wnids` are the network's classes by
    index: labels become indices into them, if the inputs know labels; so do folders named after one of `wnids` or
    `names`. `keep` and `label_column` choose further columns of a table. `include` and `exclude` are globs that choose
    among files, and among the members of tars.

    Raises ServeError for anything else, for inputs that are empty and for a `column` without a table; ArtefactError
    for damaged records.
    """
    patterns = Patterns(tuple(include), tuple(exclude))
    request = Request(images, wnids, split, column, patterns, tuple(keep), label_column, names)
    if images.lower().startswith(("http://", "https://")):
        raise ServeError(f"{public_uri(images)}: a web address cannot be listed; write addresses into a list (.txt)")
    root = parse_uri(images) if is_uri(images) else None
    if root and not root.is_local:
        return _open_stored(root, request)
    path = Path(root.path if root else images)
    if path.is_dir():
        return _open_folder(path, request)
    if not path.exists():
        way_out = "give a folder of images, a list, a tar or a table"
        if not {*"*?[{"}.isdisjoint(images):
            way_out = "give the folder, and choose its files by --include, such as --include '*.tar'"
        raise ServeError(f"{path}: no such file or directory; {way_out}")
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
    if is_saved_dataset and (inputs := open_saved_dataset(root, request.columns)) is not None:
        return inputs
    visible = [name.encode() for name in names if not is_hidden(name.encode())]
    if (inputs := _open_containers(root, visible, request, None)) is not None:
        return inputs
    _refuse_column(request)
    return replace(list_store(root, files, request.patterns), classes=request.classes)


def _open_folder(path: Path, request: Request) -> Inputs:
    for open_if_known in FOLDER_KINDS:
        if (inputs := open_if_known(path, request)) is not None:
            return inputs
    everything = list_folder(path)
    if (inputs := _open_containers(path, everything.names, request, path)) is not None:
        return inputs
    _refuse_column(request)
    chosen = list_folder(path, request.patterns) if request.patterns else everything
    return replace(chosen, classes=request.classes)


def _open_containers(
    root: StoredFile | Path, names: Iterable[bytes], request: Request, folder: Path | None
) -> Inputs | None:
    """Return what the tars or tables of a folder hold, or None if it holds none that were chosen."""
    kinds = {kind.name: kind for kind in FILE_KINDS if kind.is_container}
    endings = {each: kind.name for kind in kinds.values() for each in kind.endings}
    outer, inner = request.patterns.split(names)
    chosen = (name for name in names if outer.chooses(name))
    name, members = container_kind(chosen, endings, str(root), request.patterns)
    if not name:
        return None
    if isinstance(root, Path):
        files = [replace(local_file(root / os.fsdecode(member)), below=os.fsdecode(member)) for member in members]
    else:
        files = [root / os.fsdecode(member) for member in members]
    return _open_kind(kinds[name], files, replace(request, patterns=inner), folder)


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
    if not kind.has_names:
        _refuse_patterns(request, Patterns(request.patterns.include))
    return kind.open(files, request, folder)


def _refuse_column(request: Request) -> None:
    options = {"--column": request.column, "--keep": ",".join(request.keep), "--label-column": request.label_column}
    for option, value in options.items():
        if value:
            raise ServeError(
                f"{request.images}: not a table, so {option} {value!r} has nothing to choose; leave it out"
            )


def _refuse_patterns(request: Request, patterns: Patterns) -> None:
    if patterns:
        raise ServeError(f"{request.images}: {patterns} has nothing to choose here; leave it out")
