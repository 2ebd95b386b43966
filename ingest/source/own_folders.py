"""Class folders with any names: at the root of DATA, or in train, val (valid, validation) and test. Opens no file."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import (
    ARCHIVE_ENDINGS,
    Links,
    folder_names,
    has_images,
    list_folder,
    scan_folders,
)
from convnext_imagenet.ingest.source.missing_labels import how_to_label, refuse_no_classes
from convnext_imagenet.ingest.source.samples import Sample, SampleTree, split_of_word
from convnext_imagenet.ingest.source.scan_types import EntryCount, Folder, ScanNotes, printable


def split_folders(root: Path) -> dict[str, list[str]]:
    """Return the folders at the root by the split that they name; empty where folders are classes."""
    return splits_of_names(folder_names(root))


def splits_of_names(names: Collection[str]) -> dict[str, list[str]]:
    """Return names of folders by the split that they name; empty where folders are classes.

    A folder `test` beside classes is a class: only with a folder train, or if all folders name splits, are they splits.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        if split := split_of_word(name):
            found[split].append(name)
    is_split_tree = "train" in found or (bool(found) and sum(map(len, found.values())) == len(names))
    return dict(found) if is_split_tree else {}


def refuse_split_twice(title: Path, by_split: Mapping[str, Sequence[str]]) -> None:
    """Raise IngestError for two folders that name the same split."""
    if twice := [names for names in by_split.values() if len(names) > 1]:
        raise IngestError(f"{title}: {' and '.join(twice[0])} name the same split; keep one of them")


def scan_split_folders(root: Path, links: Links, group_by: str) -> SampleTree:
    """Return the images of class folders in folders that name splits. Raises IngestError as `scan_folders` does."""
    by_split = split_folders(root)
    refuse_split_twice(root, by_split)
    samples: list[Sample] = []
    ignored, unlabelled = EntryCount(), EntryCount()
    for split, (name,) in by_split.items():
        links.check(root / name)
        if not folder_names(root, name) and has_images(root, name):
            if split != "test":
                raise IngestError(
                    f"{root / name}: contains images outside class folders, so their classes are not known; "
                    f"{how_to_label(root, root / name)}"
                )
            for entry in list_folder(root, name, ScanNotes()):
                unlabelled.add(f"{name}/{entry.name}")
            continue
        refuse_no_classes(root, root / name, folder_names(root, name))
        notes = ScanNotes()
        samples += _samples(root, name, split, links, notes, group_by)
        ignored += notes.ignored
    named = {name for names in by_split.values() for name in names}
    for entry in list_folder(root, ".", ScanNotes()):
        if entry.name not in named:
            _require_no_split(entry, by_split, links)
            ignored.add(entry.name)
    kind = f"class folders in {', '.join(name for names in by_split.values() for name in names)}"
    return SampleTree(kind, samples, ignored, unlabelled, follows_links=links.follow)


def _require_no_split(entry: os.DirEntry, by_split: Mapping[str, list[str]], links: Links) -> None:
    """Raise IngestError for a broken link, or an archive, in place of a split: its images would be lost unseen."""
    split = split_of_word(entry.name.partition(".")[0])
    if not split or split in by_split:
        return
    links.check(Path(entry.path))
    if entry.name.lower().endswith(ARCHIVE_ENDINGS):
        others = ", ".join(name for (name,) in by_split.values())
        raise IngestError(
            f"{printable(entry.path)}: an archive beside {others}, so unpacking may have been interrupted; unpack it, "
            f"or move it elsewhere"
        )


def scan_root_folders(root: Path, links: Links, group_by: str) -> SampleTree:
    """Return the images of class folders at the root. Raises IngestError as `scan_folders` does."""
    names = folder_names(root)
    if len(names) == 1 and (inner := folder_names(root, names[0])) and group_by != "folder":
        raise IngestError(
            f"{root}: contains only the folder {printable(names[0])}, and in it the folders {first_few(inner)}; pass "
            f"{root / names[0]}"
        )
    refuse_no_classes(root, root, names)
    notes = ScanNotes()
    samples = list(_samples(root, ".", "", links, notes, group_by))
    return SampleTree("class folders", samples, notes.ignored, follows_links=links.follow)


def _samples(root: Path, path: str, split: str, links: Links, notes: ScanNotes, group_by: str) -> Iterator[Sample]:
    if group_by == "folder":
        for name in folder_names(root, path):
            links.check(root / path / name)
            scan = scan_folders(root, split, f"{path}/{name}", links, notes)
            if scan.is_flat:
                raise IngestError(
                    f"{root / path / name}: has no folders of groups; --group-by folder expects CLASS/GROUP/IMAGE"
                )
            for folder in scan.folders:
                yield from _of_folder(folder, name, split, f"{name}/{folder.class_name}", notes)
        return
    for folder in scan_folders(root, split, path, links, notes).folders:
        yield from _of_folder(folder, folder.path.rpartition("/")[2], split, "", notes)


def _of_folder(folder: Folder, label: str, split: str, group: str, notes: ScanNotes) -> Iterator[Sample]:
    path = folder.path.removeprefix("./")
    if not folder.names:
        notes.ignored.add(path, "empty class folders")
    for name, size, modified_ns in zip(folder.names, folder.sizes, folder.modified_ns, strict=True):
        yield Sample(os.path.join(path, name), label, split, group, size, modified_ns)  # noqa: PTH118  # text, no file
