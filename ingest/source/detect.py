"""Decides whether DATA has one of ImageNet's own layouts, or is a source of somebody's own images, and scans it."""

import os
from pathlib import Path

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.archives import CLASS_TAR, TRAIN_TAR, VAL_TAR
from convnext_imagenet.ingest.source.folders import Links, folder_names
from convnext_imagenet.ingest.source.hugging_face import imagenet_1k_archives, scan_archives
from convnext_imagenet.ingest.source.layout import KAGGLE_FOLDER, find_devkit, find_parts, scan_tree
from convnext_imagenet.ingest.source.own_sets import is_tiny_imagenet
from convnext_imagenet.ingest.source.samples import SampleTree
from convnext_imagenet.ingest.source.scan_types import WNID, TreeScan, has_wnid_at_end
from convnext_imagenet.ingest.source.sources import Request, scan_source
from convnext_imagenet.ingest.source.unpack import Unpacker


def scan_data(
    root: Path,
    unpacker: Unpacker,
    follow_links: bool = False,
    unverified: bool = False,
    devkit: Path | None = None,
    label_column: str = "",
    group_by: str = "",
) -> TreeScan | SampleTree:
    """Return what a scan of DATA finds: a tree with ImageNet's layout, or the samples of any other source.

    Raises IngestError when no source knows the layout, and whatever the scan refuses.
    """
    if root.is_file():
        raise IngestError(f"{root}: a file; put it into a folder of its own, and pass the folder")
    links = Links(root, follow_links)
    if root.is_dir() and (archives := imagenet_1k_archives(root)):
        return scan_archives(root, archives, links, unpacker)
    if not root.is_dir() or is_imagenet(root, unverified, devkit):
        return scan_tree(root, follow_links)
    return scan_source(Request(root, links, unpacker, label_column, group_by))


def scan_more(request: Request, is_as_given: bool) -> TreeScan | SampleTree:
    """Return what a scan of images finds that are added to records, whose labels are `is_as_given` or ImageNet's.

    Raises IngestError as `scan_data` does.
    """
    root = request.root
    if root.is_dir() and is_as_given:
        return scan_source(request)
    if root.is_dir() and (archives := imagenet_1k_archives(root)):
        return scan_archives(root, archives, request.links, request.unpacker)
    return scan_tree(root, request.links.follow, is_increment=True)


def is_imagenet(root: Path, unverified: bool, devkit: Path | None) -> bool:
    """Return whether a tree is to be compared with ImageNet's names, or was asked for as `--unverified` takes it."""
    if any((root / folder).is_dir() for folder in (KAGGLE_FOLDER, "Data/CLS-LOC", "CLS-LOC")):
        return True
    if devkit is not None or find_devkit(root) is not None:
        return True
    if any(os.path.lexists(root / name) for name in (TRAIN_TAR, VAL_TAR)):
        return True
    if is_tiny_imagenet(root):
        return False
    if find_parts(root):
        return True
    if not ((root / "train").is_dir() and (root / "val").is_dir()):
        return False
    classes = folder_names(root, "train")
    has_class_tars = any(CLASS_TAR.fullmatch(path.name) for path in (root / "train").iterdir())
    if not classes and any(has_wnid_at_end(path.name) for path in (root / "train").iterdir()):
        return True
    looks_like_it = has_class_tars or (bool(classes) and all(WNID.fullmatch(name) for name in classes))
    return looks_like_it or (unverified and bool(classes))
