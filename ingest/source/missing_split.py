"""What lies in DATA when a split is not where it should be: one line that says what was found and what to do.

Only names are looked at, of DATA and of the folders in it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

from convnext_imagenet.base.wording import as_word
from convnext_imagenet.ingest.source.folders import ARCHIVE_ENDINGS, EXPECTED, IMAGE_ENDINGS
from convnext_imagenet.ingest.source.junk import junk_kind
from convnext_imagenet.ingest.source.scan_types import printable

_OTHER_NAMES = {
    "train": ("training", "trainset", "train_set", "train_images"),
    "val": ("valid", "validation", "validate", "val_images", "dev", "eval"),
}
_PART = re.compile(r"(.+\.(?:tar|tgz|zip|tar\.gz))\.(?:[0-9]{1,3}|a[a-z]|part[0-9]+)|.+\.(?:z[0-9]{2}|part[0-9]+\.rar)")
_MOST_LOOKED_AT = 50  # entries of DATA, and of each folder in it
_TASK_3 = "ILSVRC2012_img_train_t3.tar"


def look_around(root: Path, split: str) -> str:
    """Return what was found in place of `split` ("train" or "val") in `root` and what to do, or what is expected."""
    names = _names(root)
    looks: tuple[Callable[[Path, str, list[str]], str], ...] = (
        _broken_link,
        _other_name,
        _backslashes,
        _parts,
        _archive,
        _deeper,
        _classes,
    )
    found = next((words for look in looks if (words := look(root, split, names))), "")
    if found or split == "train":
        return found or EXPECTED
    return "training needs images to evaluate on: move some images of each class to val/CLASS/"


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as scan:
            entries = [(entry.name, entry.is_dir()) for entry in scan]
    except OSError:
        return []
    return sorted(name for name, is_folder in entries if not junk_kind(name, is_folder))[:_MOST_LOOKED_AT]


def _broken_link(root: Path, split: str, names: list[str]) -> str:
    path = root / split
    if not path.is_symlink() or path.exists():
        return ""
    return f"{split} is a broken link, to {printable(path.readlink())}; fix or remove it"


def _other_name(root: Path, split: str, names: list[str]) -> str:
    for name in names:
        if (name.lower() in _OTHER_NAMES[split] or name.lower() == split) and (root / name).is_dir():
            link = f"ln -s {as_word(name)} {as_word(root / split)}"
            return f"found {name}/; if it is this split, rename it or make a link: {link}"
    return ""


def _backslashes(root: Path, split: str, names: list[str]) -> str:
    if not (found := [name for name in names if "\\" in name]):
        return ""
    return (
        f"found files with backslashes in their names, such as {printable(found[0])!r}: an archive of Windows was "
        f"unpacked wrongly; unpack it again, for example with 7z or bsdtar"
    )


def _parts(root: Path, split: str, names: list[str]) -> str:
    for name in names:
        if match := _PART.fullmatch(name):
            whole = match[1]
            how = f"cat {as_word(whole)}.* > {as_word(whole)}" if whole else "unpack the first part with 7z"
            return f"found {printable(name)}, a part of an archive; join the parts first: {how}"
    return ""


def _archive(root: Path, split: str, names: list[str]) -> str:
    if split == "train" and _TASK_3 in names:
        return f"found {_TASK_3}, the dogs of Task 3; the images of the 1000 classes are in ILSVRC2012_img_train.tar"
    archives = [name for name in names if name.lower().endswith(ARCHIVE_ENDINGS) and "devkit" not in name.lower()]
    mine = [name for name in archives if split in name.lower()]
    if not (chosen := mine or [name for name in archives if not name.startswith("ILSVRC2012_img_")]):
        return ""
    official = f"ILSVRC2012_img_{split}.tar"
    if chosen[0] == f"{official}.gz":
        return f"found {chosen[0]}; unpack only the gzip layer: gunzip {chosen[0]}"
    if re.fullmatch(rf"{split}_images(_[0-9]+)?\.tar\.gz", chosen[0]):
        return f"found {chosen[0]} of Hugging Face's imagenet-1k; unpack it into {split}/"
    return f"found {printable(chosen[0])}, an archive; unpack it, so that DATA contains {split}/ (or use {official})"


def _deeper(root: Path, split: str, names: list[str]) -> str:
    for name in names:
        inner = root / name
        if name not in ("train", "val") and (
            (inner / split).is_dir() or (inner / f"ILSVRC2012_img_{split}.tar").is_file()
        ):
            return f"found {printable(inner / split)}; pass {printable(inner)} as DATA"
    return ""


def _classes(root: Path, split: str, names: list[str]) -> str:
    if split != "train":
        return ""
    for name in names:
        if name not in ("val", "test") and any(file.lower().endswith(IMAGE_ENDINGS) for file in _names(root / name)):
            return (
                f"found {printable(name)}/ with images: if it is a class, move the class folders into train/, "
                f"and some images of each into val/CLASS/"
            )
    return ""
