"""From a scanned tree to a plan: reads the devkit, has the labels verified, notes the versions. Opens no image."""

import functools
import importlib.metadata
from pathlib import Path

import cv2
import numpy as np
import PIL

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.classes import ClassRule, read_class_rule
from convnext_imagenet.ingest.labels.devkit import read_devkit
from convnext_imagenet.ingest.labels.given import Wishes, label_samples
from convnext_imagenet.ingest.labels.given_more import Stored, label_more_samples
from convnext_imagenet.ingest.labels.kaggle import cross_check, read_kaggle
from convnext_imagenet.ingest.labels.labels import LabelledTree, label_plain_tree, label_tree
from convnext_imagenet.ingest.shards.copies import digests_of_copies
from convnext_imagenet.ingest.shards.image_policy import DEFAULT_IMAGE_POLICY, ImagePolicy
from convnext_imagenet.ingest.shards.parent import Parent, refuse_other_labels, refuse_other_rules
from convnext_imagenet.ingest.shards.plan import IngestPlan, plan_tree, rule_versions
from convnext_imagenet.ingest.source.samples import SampleTree
from convnext_imagenet.ingest.source.scan_types import TreeScan
from convnext_imagenet.records.index import INDEX_FILE, read_columns
from convnext_imagenet.records.jpeg_warnings import libjpeg_version


def make_plan(
    tree: TreeScan,
    classes: str,
    unverified: bool,
    devkit: Path | None,
    seed: int,
    image_policy: ImagePolicy = DEFAULT_IMAGE_POLICY,
    parent: Parent | None = None,
    train_shards: int | None = None,
) -> IngestPlan:
    """Return the plan for a scanned tree; its labels are verified unless `unverified`.

    The devkit is the authority for labels. If Kaggle's solution is there, too, both must agree; without a devkit, the
    solution must be the official one (DECISIONS, 2026-11-23). `classes` is all, found, or a file of wnids; `devkit`
    overrides the one that the scan found. With a `parent`, its classes count, and only images that it lacks are
    planned. `train_shards` is the number of train shards, None for the usual one. Raises IngestError when there is
    neither devkit nor solution, and when folders, names, labels or counts contradict them or the parent.
    """
    if parent is not None:
        refuse_other_rules(parent, seed, image_policy.to_json(), rule_versions())
    plan = _make_plan(tree, classes, unverified, devkit, seed, image_policy, parent, train_shards)
    if parent is not None:
        refuse_other_labels(parent, plan.source)
    return plan


def _make_plan(
    tree: TreeScan,
    classes: str,
    unverified: bool,
    devkit: Path | None,
    seed: int,
    image_policy: ImagePolicy,
    parent: Parent | None,
    train_shards: int | None,
) -> IngestPlan:
    rule = ClassRule("fixed", tuple(e.wnid for e in parent.manifest.classes)) if parent else read_class_rule(classes)

    def checked(labelled: LabelledTree) -> LabelledTree:
        for scanned, split in ((tree.train, labelled.train), (tree.val, labelled.val)):
            if scanned.files != len(split.paths) + split.left_out:
                raise RuntimeError(f"{split.name}: {len(split.paths)} + {split.left_out} are not {scanned.files} files")
        return labelled

    layout = {split.name: split.shape for split in (tree.train, tree.val)}
    plan = functools.partial(
        plan_tree,
        rule=rule,
        seed=seed,
        versions=tool_versions(),
        layout=layout,
        follows_links=tree.follows_links,
        image_policy=image_policy,
        junk={split.name: split.notes.ignored.by_name() for split in (tree.train, tree.val)},
        parent=parent,
        train_shards=train_shards,
    )
    if unverified:
        return plan(checked(label_plain_tree(tree, rule)), devkit_sha256=None)
    path = devkit or tree.devkit
    if path is not None:
        authority = read_devkit(path).authority
        solution_sha256 = cross_check(tree.kaggle, authority) if tree.kaggle else None
        labelled = checked(label_tree(tree, authority, rule))
        return plan(labelled, devkit_sha256=authority.sha256, kaggle_sha256=solution_sha256)
    if tree.kaggle is not None:
        authority = read_kaggle(tree.kaggle)
        return plan(checked(label_tree(tree, authority, rule)), devkit_sha256=None, kaggle_sha256=authority.sha256)
    raise IngestError(
        "found no devkit beside train and val; put ILSVRC2012_devkit_t12.tar.gz there or pass --devkit PATH; "
        "to use folder names as labels without any check, pass --unverified"
    )


def make_given_plan(
    tree: SampleTree,
    data: Path,
    classes: str,
    unverified: bool,
    wishes: Wishes,
    seed: int,
    image_policy: ImagePolicy = DEFAULT_IMAGE_POLICY,
    parent: Parent | None = None,
    train_shards: int | None = None,
) -> IngestPlan:
    """Return the plan for a source of somebody's own images, with labels as it gives them.

    `classes` is all or found, which mean the same here, or a file of names. Images are read only to find copies, and
    only if a split is made. With a `parent`, its classes and splits count, and only images that it lacks are planned.
    `train_shards` is the number of train shards, None for the usual one. Raises IngestError as `label_samples` and
    `label_more_samples` do.
    """
    rule = read_class_rule(classes)
    if wishes.keeps_order and rule.kind != "file":
        raise IngestError("--keep-order numbers classes as a file lists them; pass --classes FILE, too")
    digests = functools.partial(digests_of_copies, data, follow_links=tree.follows_links)
    if parent is not None:
        refuse_other_rules(parent, seed, image_policy.to_json(), rule_versions())
        digests = functools.partial(digests, stored_sizes=frozenset(parent.images_by_key["bytes"].to_pylist()))
        given = label_more_samples(tree, _stored(parent), wishes, digests)
    else:
        given = label_samples(tree, rule, wishes, unverified, digests)
    splits = list(parent.manifest.splits) if parent is not None else [split.name for split in given.tree.splits]
    return plan_tree(
        given.tree,
        rule if rule.kind == "file" else ClassRule("found"),
        seed,
        tool_versions(),
        layout=dict.fromkeys(splits, tree.kind),
        devkit_sha256=None,
        follows_links=tree.follows_links,
        image_policy=image_policy,
        junk={splits[0]: tree.ignored.by_name()},
        given={
            "labels": "as given",
            "class_index": given.class_index,
            "split": given.split,
            "unlabelled": tree.unlabelled.count,
        },
        parent=parent,
        train_shards=train_shards,
    )


def _stored(parent: Parent) -> Stored:
    images, source = parent.images_by_key, parent.plan["source"]
    contents = read_columns(parent.root / INDEX_FILE, ("sha256", "split"))
    return Stored(
        title=str(parent.root),
        classes=parent.manifest.classes,
        class_index=source["class_index"],
        split=source["split"],
        splits=tuple(parent.manifest.splits),
        split_of_key=dict(zip(images["key"].to_pylist(), images["split"].to_pylist(), strict=True)),
        split_of_content=dict(zip(contents["sha256"].to_pylist(), contents["split"].to_pylist(), strict=True)),
    )


def tool_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide the bytes of the records.

    Raises JpegLibraryError when JPEGs cannot be checked on this machine.
    """
    return {
        "libjpeg": libjpeg_version(),
        "mindspore": importlib.metadata.version("mindspore"),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "pyarrow": importlib.metadata.version("pyarrow"),
    }
