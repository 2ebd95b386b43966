"""Which of the known layouts DATA has, and its scan; reads names and sizes and opens no image.

Each split is a folder or an official tar, independently of the other. The devkit is beside them; in Kaggle's layout,
the solution and the synset mapping are.
"""

import os
import re
from pathlib import Path

from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.archives import (
    CLASS_TAR,
    OFFICIAL_MD5,
    TRAIN_TAR,
    VAL_TAR,
    scan_class_tars,
    scan_train_tar,
    scan_val_tar,
)
from convnext_imagenet.ingest.source.folders import EXPECTED, Links, is_folder, list_folder, scan_folders
from convnext_imagenet.ingest.source.missing_split import look_around
from convnext_imagenet.ingest.source.scan_types import ScanNotes, SplitScan, TreeScan, by_suffix

KAGGLE_FOLDER = "ILSVRC/Data/CLS-LOC"
KAGGLE_SOLUTION, KAGGLE_MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
_TARS = {"train": TRAIN_TAR, "val": VAL_TAR}
_PART = re.compile(r"(train|val)\.X[0-9]*")
_DEVKIT_ENDINGS = (".tar.gz", ".tgz", ".tar")


def scan_tree(root: Path, follow_links: bool = False, is_increment: bool = False) -> TreeScan:
    """Return what a scan of the raw data at `root` finds; an increment may lack one of the splits.

    Raises IngestError when the layout is not a known one, a name cannot be a key, a link leads out of `root`, or a
    folder or tar cannot be read.
    """
    if not root.is_dir():
        problem = "not a folder" if root.exists() else "no such folder"
        raise IngestError(f"{root}: {problem}; pass the folder of the raw images")
    links = Links(root, follow_links)
    kaggle = root if (root / KAGGLE_FOLDER).is_dir() else None
    if parts := find_parts(root):
        return _scan_parts(root, parts, links)
    lacking = {name for name in ("train", "val") if is_increment and not kaggle and not _is_there(root, name)}
    for name in ("train", "val"):
        if name not in lacking or len(lacking) == 2:
            _check_there(root, name, kaggle)
    prefix = f"{KAGGLE_FOLDER}/" if kaggle else ""
    train, val = (
        SplitScan(name, False, ())
        if name in lacking
        else _with_suffixes(_scan_split(root, name, f"{prefix}{name}", links))
        for name in ("train", "val")
    )
    if train.is_flat:
        raise IngestError(
            f"{root}: train/ contains images outside class folders, such as {train.folders[0].names[0]!r}; {EXPECTED}"
        )
    if (devkit := find_devkit(root)) is not None:
        links.check(devkit)
    for split in (train, val):
        _refuse_only_links(split, follow_links)
        if split.files + split.notes.ignored.count != split.notes.found:
            raise RuntimeError(f"{split.name}: {split.files} + {split.notes.ignored.count} are not {split.notes.found}")
    return TreeScan(train, val, devkit, kaggle, follow_links)


def _refuse_only_links(split: SplitScan, follow_links: bool) -> None:
    """Raise IngestError when no file of a split is more than a link, or a pipe or device."""
    if split.files and split.notes.not_plain.count == split.files:
        way_out = "remove what is broken" if follow_links else "to follow links, pass --follow-links"
        raise IngestError(
            f"{split.name}/: all {split.files:,} images are links (or pipes or devices), such as "
            f"{split.notes.not_plain.first!r}; {way_out}"
        )


def find_parts(root: Path) -> dict[str, list[str]]:
    """Return the folders train.X1, train.X2, ... and val.X of ImageNet-100 as Kaggle ships it; empty for others."""
    names = sorted(path.name for path in root.iterdir() if _PART.fullmatch(path.name) and path.is_dir())
    parts = {split: [name for name in names if name.startswith(split)] for split in ("train", "val")}
    return parts if all(parts.values()) else {}


def _scan_parts(root: Path, parts: dict[str, list[str]], links: Links) -> TreeScan:
    """Return splits whose classes are spread over several folders."""
    splits = {}
    for split, names in parts.items():
        notes = ScanNotes()
        for name in names:
            links.check(root / name)
        folders = [folder for name in names for folder in scan_folders(root, split, name, links, notes).folders]
        folders.sort(key=lambda folder: os.fsencode(folder.class_name))
        splits[split] = SplitScan(split, False, tuple(folders), f"class folders in {', '.join(names)}", notes)
    return TreeScan(splits["train"], splits["val"], find_devkit(root), None, links.follow)


def find_devkit(root: Path) -> Path | None:
    """Return the devkit beside train/ and val/, or None: a folder or tar with "devkit" in its name, preferably t12."""

    def preference(path: Path) -> tuple[bool, bool, bytes]:
        return "_t12" not in path.name, path.is_dir(), os.fsencode(path.name)

    candidates = [path for path in root.iterdir() if "devkit" in path.name.lower() and _may_be_devkit(path)]
    return min(candidates, key=preference, default=None)


def official_archives(root: Path) -> list[Path]:
    """Return the archives in `root` that have an official name. Raises IngestError when there is none."""
    paths = [root / name for name in OFFICIAL_MD5 if (root / name).is_file()]
    if not paths:
        raise IngestError(
            f"{root}: contains no official archive ({', '.join(OFFICIAL_MD5)}); leave --check-archives out"
        )
    return paths


def _may_be_devkit(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return (path.is_file() and path.name.endswith(_DEVKIT_ENDINGS)) or (path / "data").is_dir()


def _check_there(root: Path, name: str, kaggle: Path | None) -> None:
    if kaggle is not None:
        if not (root / KAGGLE_FOLDER / name).is_dir():
            raise IngestError(
                f"{root}: Kaggle's layout, but {KAGGLE_FOLDER}/{name}/ is missing; unpack the archive again"
            )
    elif not _is_there(root, name):
        inside = "for Kaggle's layout, pass the folder that contains ILSVRC/" if _is_inside_kaggle(root) else ""
        raise IngestError(f"{root}: has no folder {name}/ and no {_TARS[name]}; {inside or look_around(root, name)}")


def _is_there(root: Path, name: str) -> bool:
    return (root / name).is_dir() or os.path.lexists(root / _TARS[name])


def _is_inside_kaggle(root: Path) -> bool:
    return any((root / inner).is_dir() for inner in ("Data/CLS-LOC", "CLS-LOC"))


def _scan_split(root: Path, name: str, path: str, links: Links) -> SplitScan:
    folder, notes = root / path, ScanNotes()
    if not folder.is_dir():
        links.check(root / _TARS[name])
        scan = scan_train_tar if name == "train" else scan_val_tar
        return scan(root, notes)
    links.check(folder)
    tars = _class_tars(root, path) if name == "train" else []
    split = scan_folders(root, name, path, links, notes, frozenset(tars))
    if not tars:
        return split
    for archive in tars:
        links.check(folder / archive)
    notes.found -= len(tars)  # containers of images, as class folders are
    return _both(folder, split, scan_class_tars(root, path, tars, notes))


def _with_suffixes(split: SplitScan) -> SplitScan:
    """Return a flat split by the wnids at the end of its names, if all have one: Hugging Face's archives, unpacked."""
    folders = by_suffix(split.folders[0]) if split.is_flat else None
    if not folders:
        return split
    return SplitScan(split.name, False, folders, "flat, with the wnid in each name", split.notes)


def _class_tars(root: Path, path: str) -> list[str]:
    entries = list_folder(root, path, ScanNotes())
    return [entry.name for entry in entries if CLASS_TAR.fullmatch(entry.name) and not is_folder(entry)]


def _both(folder: Path, folders: SplitScan, tars: SplitScan) -> SplitScan:
    """Return the classes of folders and tars together. Raises IngestError for a class that is in both."""
    if not folders.folders:
        return tars
    if twice := sorted({one.class_name for one in folders.folders} & {one.class_name for one in tars.folders}):
        raise IngestError(
            f"{folder / twice[0]}: beside {twice[0]}.tar, so unpacking may have been interrupted "
            f"({plural(len(twice), 'such class')}); unpack the tar again and remove it, or remove the folder"
        )
    every = sorted((*folders.folders, *tars.folders), key=lambda one: os.fsencode(one.class_name))
    return SplitScan("train", False, tuple(every), "class folders and class tars", folders.notes)
