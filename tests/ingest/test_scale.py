"""A plan for the whole of ImageNet, from a listing that exists only in memory."""

from array import array

import numpy as np
import pytest

from convnext_imagenet.ingest.labels.authority import LabelAuthority
from convnext_imagenet.ingest.labels.classes import ClassRule
from convnext_imagenet.ingest.labels.devkit import Devkit, Leaf
from convnext_imagenet.ingest.labels.labels import label_tree
from convnext_imagenet.ingest.shards.plan import plan_tree
from convnext_imagenet.ingest.source.scan_types import Folder, SplitScan, TreeScan

from ..peak_memory import forget_peak, peak_kib

TRAIN_IMAGES, VAL_IMAGES, CLASSES = 1_281_167, 50_000, 1000


def simulated_listing() -> tuple[TreeScan, LabelAuthority]:
    """A complete tree and its devkit, with sizes of about 110 KB."""
    sizes = np.random.Generator(np.random.Philox(1)).integers(20_000, 200_000, size=2000)
    counts = [TRAIN_IMAGES * (index + 1) // CLASSES - TRAIN_IMAGES * index // CLASSES for index in range(CLASSES)]
    leaves, folders = [], []
    for index, count in enumerate(counts):
        wnid = f"n{10_000_000 + 37 * index:08d}"
        leaves.append(Leaf(CLASSES - index, wnid, f"class {index}", count))
        names = tuple(f"{wnid}_{number}.JPEG" for number in range(count))
        folders.append(Folder(f"train/{wnid}", names, array("q", sizes[:count].tolist())))
    names = tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, VAL_IMAGES + 1))
    val = Folder("val", names, array("q", np.resize(sizes, VAL_IMAGES).tolist()))
    truth = tuple(number % CLASSES + 1 for number in range(VAL_IMAGES))
    tree = TreeScan(SplitScan("train", False, tuple(folders)), SplitScan("val", True, (val,)), devkit=None)
    return tree, Devkit(tuple(sorted(leaves, key=lambda leaf: leaf.ilsvrc_id)), truth, "0" * 64).authority


@pytest.mark.slow
def test_plan_of_the_whole_imagenet_holds_every_image_once_and_little_memory():
    forget_peak()
    before_kib = peak_kib()
    tree, devkit = simulated_listing()
    rule = ClassRule("all")
    plan = plan_tree(label_tree(tree, devkit, rule), rule, 0, {}, {}, devkit.sha256)
    train, val = plan.splits
    assert (len(plan.classes), plan.images) == (CLASSES, TRAIN_IMAGES + VAL_IMAGES)
    assert (train.shard_count, val.shard_count) == (64, 8)
    for split in plan.splits:
        stored = np.concatenate([split.sample_ids(index) for index in range(split.shard_count)])
        assert np.array_equal(np.sort(stored), np.arange(len(split.keys)))
    rows = train.shard_rows(63)
    assert {row.key for row in rows} == {train.keys[row.sample_id] for row in rows}
    assert np.bincount(train.labels).tolist() == [len(folder.names) for folder in tree.train.folders]
    assert peak_kib() - before_kib < 800 << 10
