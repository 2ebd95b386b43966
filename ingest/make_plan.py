"""From a scanned tree to a plan: the devkit is read, the labels are verified, the versions are noted."""

import functools
import importlib.metadata
from pathlib import Path

import cv2
import numpy as np
import PIL

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.classes import read_class_rule
from convnext_imagenet.ingest.labels.devkit import read_devkit
from convnext_imagenet.ingest.labels.kaggle import cross_check, read_kaggle
from convnext_imagenet.ingest.labels.labels import label_plain_tree, label_tree
from convnext_imagenet.ingest.shards.plan import IngestPlan, plan_tree
from convnext_imagenet.ingest.source.scan_types import TreeScan


def prepare(tree: TreeScan, classes: str, unverified: bool, devkit: Path | None, seed: int) -> IngestPlan:
    """The plan for a scanned tree, its labels verified unless `unverified`.

    The devkit vouches for them; where Kaggle's solution lies beside it both must agree, and where it lies alone, it
    must be the official one.

    `classes` is all, found, or a file of wnids; `devkit` overrides the one that the scan found.
    """
    rule = read_class_rule(classes)
    layout = {split.name: split.shape for split in (tree.train, tree.val)}
    plan = functools.partial(
        plan_tree, rule=rule, seed=seed, versions=tool_versions(), layout=layout, follows_links=tree.follows_links
    )
    if unverified:
        return plan(label_plain_tree(tree, rule), devkit_sha256=None)
    path = devkit or tree.devkit
    if path is not None:
        kit = read_devkit(path)
        solution_sha256 = cross_check(tree.kaggle, kit) if tree.kaggle else None
        return plan(label_tree(tree, kit, rule), devkit_sha256=kit.sha256, kaggle_sha256=solution_sha256)
    if tree.kaggle is not None:
        kaggle = read_kaggle(tree.kaggle)
        return plan(label_tree(tree, kaggle, rule), devkit_sha256=None, kaggle_sha256=kaggle.sha256)
    raise IngestError(
        "no devkit lies beside train and val: put ILSVRC2012_devkit_t12.tar.gz there or name it with --devkit; "
        "to take the folder names as labels without any check, pass --unverified"
    )


def tool_versions() -> dict[str, str]:
    """Versions of the libraries that decide over the bytes of the records."""
    return {
        "mindspore": importlib.metadata.version("mindspore"),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "pyarrow": importlib.metadata.version("pyarrow"),
    }
