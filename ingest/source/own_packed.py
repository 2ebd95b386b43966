"""Class folders in archives, alone or in folders that name splits: the same labels as those of the unpacked folders.

Folders above all images are passed over. Pure: the paths of members in, samples out.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from convnext_imagenet.base.tars import Member
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import ARCHIVE_ENDINGS
from convnext_imagenet.ingest.source.missing_labels import is_no_class
from convnext_imagenet.ingest.source.own_archives import Archive, is_image_name
from convnext_imagenet.ingest.source.own_folders import refuse_split_twice, splits_of_names
from convnext_imagenet.ingest.source.samples import Sample, split_of_path, split_of_word
from convnext_imagenet.ingest.source.scan_types import EntryCount, printable

_TABLES_OF_IMAGES = (".parquet", ".arrow", ".feather")


def packed_folders(
    root: Path, archives: Sequence[Archive], ignored: EntryCount, unlabelled: EntryCount
) -> Iterator[Sample]:
    """Yield the images of archives that hold class folders; files outside them are counted.

    Raises IngestError for images outside class folders, but for those of a split test, which have no labels; for
    folders in class folders, archives in archives, and archives without any image.
    """
    with_images = [archive for archive in archives if any(map(is_image_name, archive.members))]
    for archive in archives:
        if inner := [name for name in archive.members if name.lower().endswith(ARCHIVE_ENDINGS)]:
            raise IngestError(
                f"{root / archive.name}: contains {first_few([printable(name) for name in inner])}, an archive in an "
                f"archive; unpack the outer one"
            )
        if archive not in with_images:
            ignored.add(archive.name)
    if not with_images:
        raise IngestError(f"{root / archives[0].name}: {_what_instead(archives)}")
    for archive in with_images:
        yield from _of_archive(root, archive, ignored, unlabelled)


def _what_instead(archives: Sequence[Archive]) -> str:
    names = [name for archive in archives for name in archive.members]
    if tables := [name for name in names if name.lower().endswith(_TABLES_OF_IMAGES)]:
        return (
            f"contains {first_few([printable(name) for name in tables])}; unpack it, tables of images are read as files"
        )
    return (
        f"contains no image, only {first_few([printable(name) for name in names]) or 'nothing'}; pass another archive"
    )


def _of_archive(root: Path, archive: Archive, ignored: EntryCount, unlabelled: EntryCount) -> Iterator[Sample]:
    above = _folders_above(archive)
    inside: list[tuple[list[str], Member]] = []
    for name, member in archive.members.items():
        if not name.startswith(above):
            ignored.add(f"{archive.name}/{name}")
            continue
        inside.append((name.removeprefix(above).split("/")[:-1], member))
    of_archive = split_of_path(f"{archive.name}/{above}")
    splits = splits_of_names({folders[0] for folders, _ in inside if folders})
    refuse_split_twice(root / archive.name, splits)
    names = {name for folders, _ in inside for name in folders[bool(splits) :]}
    if strange := sorted(printable(name) for name in names if is_no_class(name)):
        raise IngestError(
            f"{root / archive.name}: {first_few(strange)}: not the name of a class; pack class folders, or unpack it"
        )
    for folders, member in inside:
        split = split_of_word(folders[0]) if splits and folders else of_archive
        classes = folders[1:] if splits else folders
        if len(classes) == 1 and (split or not splits):
            yield archive.sample(member, classes[0], split)
        elif not is_image_name(member.name) or (splits and not (folders and split)):  # as beside folders of splits
            ignored.add(f"{archive.name}/{member.name}")
        elif not classes and split == "test":
            unlabelled.add(f"{archive.name}/{member.name}")
        else:
            raise IngestError(f"{root / archive.name}: {printable(member.name)[:200]} {_where_it_is(classes)}")


def _where_it_is(classes: Sequence[str]) -> str:
    if len(classes) > 1:
        return f"is in a folder inside the class folder {printable(classes[0])}; pack class folders that hold images"
    return (
        "is in no class folder; pack class folders, or images with .cls files (webdataset), or put a CSV of path and "
        "label beside the archive"
    )


def _folders_above(archive: Archive) -> str:
    """Return the folders that hold all class folders, such as "flowers/", or nothing: each is the only one there."""
    paths = [name.split("/")[:-1] for name in archive.members if is_image_name(name)]
    above: list[str] = []
    while len(tops := {folders[0] if folders else "" for folders in paths}) == 1:
        (top,) = tops
        if split_of_word(top) or not all(len(folders) > 1 for folders in paths):
            break
        above.append(top)
        paths = [folders[1:] for folders in paths]
    return "".join(f"{folder}/" for folder in above)
