"""From a scanned tree to a plan: the devkit is read, the labels are verified, the versions are noted."""

import importlib.metadata
from pathlib import Path

import cv2
import numpy as np

from convnext_imagenet.ingest.classes import read_class_rule
from convnext_imagenet.ingest.devkit import read_devkit
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels import label_plain_tree, label_tree
from convnext_imagenet.ingest.layout import TreeScan
from convnext_imagenet.ingest.plan import IngestPlan, plan_tree


def prepare(tree: TreeScan, classes: str, unverified: bool, devkit: Path | None, seed: int) -> IngestPlan:
    """The plan for a scanned tree, its labels verified against the devkit unless `unverified`.

    `classes` is all, found, or a file of wnids; `devkit` overrides the one that the scan found.
    """
    rule = read_class_rule(classes)
    layout = {split.name: "flat" if split.is_flat else "class folders" for split in (tree.train, tree.val)}
    if unverified:
        return plan_tree(label_plain_tree(tree, rule), rule, seed, tool_versions(), layout, devkit_sha256=None)
    path = devkit or tree.devkit
    if path is None:
        raise IngestError(
            "no devkit lies beside train/ and val/: put ILSVRC2012_devkit_t12.tar.gz there or name it with --devkit; "
            "to take the folder names as labels without any check, pass --unverified"
        )
    kit = read_devkit(path)
    return plan_tree(label_tree(tree, kit, rule), rule, seed, tool_versions(), layout, kit.sha256)


def tool_versions() -> dict[str, str]:
    """Versions of the libraries that decide over the bytes of the records."""
    return {
        "mindspore": importlib.metadata.version("mindspore"),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pyarrow": importlib.metadata.version("pyarrow"),
    }
