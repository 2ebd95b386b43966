"""The table of sources of somebody's own images: a folder is looked at, and the first source that knows it reads it.

A new layout is one file beside this one, and one entry in SOURCES. ImageNet's own layouts are in `layout.py`; what has
them is never asked for here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from convnext_imagenet.base.image_tables import SPLITS_FILE, STATE_FILE
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import EXPECTED, Links, folder_names, has_images, is_folder, list_folder
from convnext_imagenet.ingest.source.missing_labels import clues
from convnext_imagenet.ingest.source.missing_split import look_around
from convnext_imagenet.ingest.source.own_archives import Archive, find_archives, open_archives
from convnext_imagenet.ingest.source.own_arrow import image_tables, saved_files, scan_arrow, with_splits
from convnext_imagenet.ingest.source.own_folders import (
    scan_root_folders,
    scan_split_folders,
    split_folders,
)
from convnext_imagenet.ingest.source.own_packed import packed_folders
from convnext_imagenet.ingest.source.own_sets import is_tiny_imagenet, scan_tiny_imagenet
from convnext_imagenet.ingest.source.own_tables import Table, find_tables, first_path, scan_tables, tables_in
from convnext_imagenet.ingest.source.own_webdataset import (
    CLASS_NAMES_FILE,
    is_webdataset,
    read_class_names,
    scan_webdataset,
)
from convnext_imagenet.ingest.source.parts import require_all_parts
from convnext_imagenet.ingest.source.samples import Sample, SampleTree
from convnext_imagenet.ingest.source.scan_types import EntryCount, ScanNotes, printable
from convnext_imagenet.ingest.source.table_files import Files, FilesInArchives, FilesOnDisk
from convnext_imagenet.ingest.source.unpack import Unpacker


@dataclass(frozen=True)
class Request:
    """What a source needs to read DATA: where, which links, where to unpack, which columns the user named."""

    root: Path
    links: Links
    unpacker: Unpacker
    label_column: str = ""
    group_by: str = ""


@dataclass(frozen=True)
class Source:
    """A layout: `scan` returns None for a folder of another one.

    `has_columns`: --label-column chooses in it. `has_groups`: so does --group-by, of folders if it has no columns.
    """

    scan: Callable[[Request], SampleTree | None]
    has_columns: bool = False
    has_groups: bool = False


def _saved_dataset(request: Request) -> SampleTree | None:
    if (files := saved_files(request.root)) is None:
        return None
    return scan_arrow(
        request.root,
        files,
        "Hugging Face data set of save_to_disk",
        request.links,
        request.unpacker,
        request.label_column,
        request.group_by,
    )


def _image_tables(request: Request) -> SampleTree | None:
    if not (names := image_tables(request.root)):
        return None
    require_all_parts(request.root, names)
    kind = f"images in {first_few(names)}"
    return scan_arrow(
        request.root, with_splits(names), kind, request.links, request.unpacker, request.label_column, request.group_by
    )


def _tiny_imagenet(request: Request) -> SampleTree | None:
    return scan_tiny_imagenet(request.root, request.links) if is_tiny_imagenet(request.root) else None


def _tables(request: Request) -> SampleTree | None:
    """Read tables on disk, unless their images lie in archives."""
    files = FilesOnDisk(request.root, request.links)
    tables = find_tables(request.root, files)
    if not tables or (files.find(first_path(tables[0])) is None and find_archives(request.root)):
        return None
    return _scan_tables(request, tables, files)


def _scan_tables(request: Request, tables: list[Table], files: Files) -> SampleTree:
    for table in tables:
        request.links.check_below(request.root, table.path)
    return scan_tables(request.root, tables, files, request.label_column, request.group_by, request.links.follow)


def _with_archives(tree: SampleTree, archives: list[Archive], ignored: EntryCount) -> SampleTree:
    names = [archive.name for archive in archives]
    return replace(
        tree,
        kind=f"{tree.kind} in {first_few(names)}",
        ignored=tree.ignored + ignored,
        read_files=[*tree.read_files, *names],
    )


def _archives(request: Request) -> SampleTree | None:
    """Read archives with a table in them or beside them, webdatasets, or archives of class folders."""
    if not (names := find_archives(request.root)):
        return None
    require_all_parts(request.root, names)
    ignored, unlabelled = EntryCount(), EntryCount()
    archives = open_archives(request.root, names, request.links, request.unpacker, ignored)
    files = FilesInArchives(archives)
    if tables := find_tables(request.root, files) or tables_in(request.root, archives, files):
        return _with_archives(_scan_tables(request, tables, files), archives, ignored)
    if request.group_by:
        raise IngestError(
            f"{request.root}: {first_few(names)} without a table, so --group-by {request.group_by} has nothing to "
            f"group by"
        )
    samples: list[Sample] = []
    class_names = read_class_names(request.root)
    keyed = [archive for archive in archives if is_webdataset(archive)]
    for archive in keyed:
        samples += scan_webdataset(request.root, archive, class_names, request.label_column, unlabelled, ignored)
    if others := [archive for archive in archives if archive not in keyed]:
        samples += packed_folders(request.root, others, ignored, unlabelled)
    order = tuple(class_names) if keyed else ()
    tree = SampleTree(
        "webdataset" if keyed else "class folders",
        samples,
        EntryCount(),
        unlabelled,
        order,
        follows_links=request.links.follow,
    )
    return _with_archives(tree, archives, ignored)


def _split_folders(request: Request) -> SampleTree | None:
    return scan_split_folders(request.root, request.links, request.group_by) if split_folders(request.root) else None


def _root_folders(request: Request) -> SampleTree | None:
    return scan_root_folders(request.root, request.links, request.group_by) if folder_names(request.root) else None


# In this order: what states labels itself comes before what only has folders.
SOURCES = (
    Source(_tiny_imagenet),
    Source(_saved_dataset, has_columns=True, has_groups=True),
    Source(_tables, has_columns=True, has_groups=True),
    Source(_image_tables, has_columns=True, has_groups=True),
    Source(_archives, has_columns=True, has_groups=True),
    Source(_split_folders, has_groups=True),
    Source(_root_folders, has_groups=True),
)


def _note_unused(root: Path, tree: SampleTree) -> None:
    """Count what lies at the root and was not read.

    Raises IngestError for folders of images beside containers or tables of images: unpacking may have been interrupted.
    """
    used = {sample.path.partition("/")[0].partition("#")[0] for sample in tree.samples}
    read = {STATE_FILE, SPLITS_FILE, CLASS_NAMES_FILE, *tree.read_files}
    noted = read | {tree.ignored.first.split("/")[0], *tree.unlabelled.names}
    holds_bytes = any(sample.offset >= 0 for sample in tree.samples)
    for entry in list_folder(root, ".", ScanNotes()):
        if entry.name in used or entry.name in noted:
            continue
        if holds_bytes and is_folder(entry) and _holds_images(root, entry.name):
            raise IngestError(
                f"{root / entry.name}: a folder of images beside {tree.kind}, which would be left out; unpacking may "
                f"have been interrupted: keep one of the two"
            )
        tree.ignored.add(entry.name)


def _holds_images(root: Path, name: str) -> bool:
    return has_images(root, name) or any(has_images(root, f"{name}/{inner}") for inner in folder_names(root, name))


def scan_source(request: Request) -> SampleTree:
    """Return the samples of DATA by the first source that knows its layout.

    Raises IngestError when none does, when an option has nothing to choose in it, and whatever the source refuses.
    """
    for source in SOURCES:
        if (tree := source.scan(request)) is None:
            continue
        if request.label_column and not source.has_columns:
            raise IngestError(f"{request.root}: {tree.kind}, so --label-column has nothing to choose; leave it out")
        if request.group_by and not (source.has_groups and (source.has_columns or request.group_by == "folder")):
            raise IngestError(f"{request.root}: {tree.kind}, so --group-by {request.group_by} has nothing to group by")
        if source.has_columns:  # the others look at every entry themselves
            _note_unused(request.root, tree)
        return tree
    raise IngestError(f"{request.root}: no known layout; {_what_lies_in(request.root)}")


def _what_lies_in(root: Path) -> str:
    """Return what was found instead of a layout, and what to do."""
    if found := clues(root):
        return found
    if (found := look_around(root, "train")) != EXPECTED:
        return found
    names = [printable(entry.name) for entry in list_folder(root, ".", ScanNotes())]
    return (
        f"found {first_few(names) or 'nothing'}; expected class folders, train and val, a table of file names and "
        f"labels, Parquet, save_to_disk, tars or zips (README, Your data)"
    )
