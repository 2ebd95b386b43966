"""ImageNet as Hugging Face ships it: `train_images_0.tar.gz` ..., `val_images.tar.gz`, the wnid after each file's name.

The names are `n01440764_10026_n01440764.JPEG` and `ILSVRC2012_val_00000293_n01440764.JPEG`: name, suffix and devkit can
be compared three ways. Here the suffix stands for the folder, so whatever compares folders compares it.
"""

import re
from array import array
from collections import defaultdict
from pathlib import Path

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.folders import Links
from convnext_imagenet.ingest.source.layout import find_devkit
from convnext_imagenet.ingest.source.own_archives import walk_file
from convnext_imagenet.ingest.source.scan_types import (
    Folder,
    ScanNotes,
    SplitScan,
    TreeScan,
    by_suffix,
    has_wnid_at_end,
    printable,
)
from convnext_imagenet.ingest.source.unpack import Unpacker

_ARCHIVE = re.compile(r"(train|val|test)_images(_[0-9]+)?\.tar\.gz")
_TITLE = "Hugging Face's imagenet-1k"


def imagenet_1k_archives(root: Path) -> dict[str, list[str]]:
    """Return the archives in `root` or its folder data by split: paths below `root`; empty if there are none."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder in ("", "data/"):
        if not (root / folder).is_dir():
            continue
        for path in sorted((root / folder).iterdir()):
            if match := _ARCHIVE.fullmatch(path.name):
                found[match[1]].append(f"{folder}{path.name}")
    return dict(found)


def scan_archives(root: Path, archives: dict[str, list[str]], links: Links, unpacker: Unpacker) -> TreeScan:
    """Return both splits of these archives; the test images, which have no labels, are left out and counted.

    Raises IngestError when a split is missing, an archive is damaged, or a name has no wnid at its end.
    """
    if missing := [split for split in ("train", "val") if split not in archives]:
        raise IngestError(f"{root}: {_TITLE}, but {missing[0]}_images*.tar.gz is missing; download it, too")
    train, val = (_scan(root, split, archives[split], links, unpacker) for split in ("train", "val"))
    for name in archives.get("test", []):
        train.notes.found += 1
        train.notes.ignored.add(name, name)
    return TreeScan(train, val, find_devkit(root), None, links.follow)


def _scan(root: Path, split: str, names: list[str], links: Links, unpacker: Unpacker) -> SplitScan:
    folders: list[Folder] = []
    notes = ScanNotes()
    for name in names:
        links.check_below(root, name)
        tar = unpacker.tar_of(root, name)
        members = [member for member in walk_file(tar, str(root / name)) if member.kind == "file"]
        flat = Folder(
            name,
            tuple(member.name.removeprefix("./") for member in members),
            array("q", (member.size for member in members)),
            array("q", (member.offset for member in members)),
            array("q", [tar.stat().st_mtime_ns]) * len(members),
            str(tar.absolute()),
        )
        if (found := by_suffix(flat)) is None:
            strange = next(each for each in flat.names if not has_wnid_at_end(each))
            raise IngestError(
                f"{root / name}: contains {printable(strange)[:200]!r}, expected names with a wnid at their end, such "
                f"as n01440764_10026_n01440764.JPEG; download it again"
            )
        folders += found
        notes.found += len(members)
    folders.sort(key=lambda folder: (folder.class_name, folder.path))
    archives = f"{len(names)} archives" if len(names) > 1 else "an archive"
    shape = f"classes in {archives} of {_TITLE}"
    return SplitScan(split, False, tuple(folders), shape, notes)
