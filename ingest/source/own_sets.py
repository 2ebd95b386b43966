"""Tiny ImageNet: its classes are wnids but its files are renamed, so its labels are those that the set states."""

from pathlib import Path

from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import Links, folder_names, scan_folders
from convnext_imagenet.ingest.source.samples import Sample, SampleTree
from convnext_imagenet.ingest.source.scan_types import EntryCount, ScanNotes

_ANNOTATIONS = "val/val_annotations.txt"


def is_tiny_imagenet(root: Path) -> bool:
    """Return whether a folder has the layout of Tiny ImageNet."""
    return (root / _ANNOTATIONS).is_file() and (root / "train").is_dir()


def scan_tiny_imagenet(root: Path, links: Links) -> SampleTree:
    """Return the images of train/WNID/images/, and those of val/images/ with the labels of val_annotations.txt.

    Raises IngestError when annotations and files differ. The test images, which have no labels, are counted.
    """
    samples: list[Sample] = []
    notes = ScanNotes()
    for wnid in folder_names(root, "train"):
        links.check_below(root, f"train/{wnid}/images")
        for folder in scan_folders(root, "train", f"train/{wnid}/images", links, notes).folders:
            for name, size, modified_ns in zip(folder.names, folder.sizes, folder.modified_ns, strict=True):
                samples.append(Sample(f"{folder.path}/{name}", wnid, "train", "", size, modified_ns))
    wnid_of = _annotations(root / _ANNOTATIONS)
    links.check_below(root, "val/images")
    (folder,) = scan_folders(root, "val", "val/images", links, notes).folders
    if differing := sorted(set(folder.names) ^ wnid_of.keys()):
        raise IngestError(
            f"{root / _ANNOTATIONS}: {plural(len(differing), 'image')} only in it, or only in val/images: "
            f"{first_few(differing)}; unpack tiny-imagenet-200.zip again"
        )
    for name, size, modified_ns in zip(folder.names, folder.sizes, folder.modified_ns, strict=True):
        samples.append(Sample(f"{folder.path}/{name}", wnid_of[name], "val", "", size, modified_ns))
    unlabelled = EntryCount()
    if (root / "test" / "images").is_dir():
        for path in (root / "test" / "images").iterdir():
            unlabelled.add(f"test/images/{path.name}")
    return SampleTree("Tiny ImageNet", samples, notes.ignored, unlabelled, is_as_given=True, follows_links=links.follow)


def _annotations(path: Path) -> dict[str, str]:
    wnid_of = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name, *values = line.split("\t")
        if not values or name in wnid_of:
            raise IngestError(f"{path}: line {number} is {line[:60]!a}, expected a new image and its wnid")
        wnid_of[name] = values[0]
    return wnid_of
