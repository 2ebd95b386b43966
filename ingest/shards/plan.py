"""What will be written where, decided before anything is written. Pure: labels and a seed in, a plan out.

The plan depends only on the source, the classes, the seed, the image policy and the versions of rules and libraries:
not on workers, absolute paths, locale or hash seed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.classes import ClassRule
from convnext_imagenet.ingest.labels.labels import LabelledSplit, LabelledTree
from convnext_imagenet.ingest.shards.image_policy import DEFAULT_IMAGE_POLICY, ImagePolicy
from convnext_imagenet.ingest.shards.parent import Parent, new_images
from convnext_imagenet.records.image_headers import CHECKS_VERSION, LARGEST_FILE_BYTES
from convnext_imagenet.records.keyed_random import keyed_rng
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.page_sizes import largest_image_bytes, shard_capacity
from convnext_imagenet.records.schema import SCHEMA_VERSION, WRITING_VERSION, shard_name
from convnext_imagenet.records.thumbnails import thumbnails_per_class

# Raise when the same images go to other shards, or to other positions in them (DECISIONS, 2026-11-28).
SHARD_ORDER_VERSION = 1
_SHARD_BYTES = 2 << 30
_MOST_SHARDS = 64  # a reader opens each shard once for every worker thread
_SHARDS_FOR_PARALLELISM = 8
_SUMMED = ("images", "bytes")
_ROWS_WORTH_A_SHARD = 512  # starting a shard takes as long as some hundred images


class PlannedRow(NamedTuple):
    """One image to store, as the scan found it.

    `path` is below DATA; for an image in a tar it continues inside the tar, and `offset` is its first byte there, -1
    for a separate file. `modified_ns` is the modification time of the file or the tar in ns, -1 when not known.
    `container` is the file that holds the image of a tar or table, below DATA or absolute, empty if the path says it.
    `is_misnamed` if the file's name is not one of ImageNet's: then it is not stored, whatever it contains.
    """

    sample_id: int
    path: str
    key: str
    label: int
    size: int
    offset: int = -1
    modified_ns: int = -1
    is_misnamed: bool = False
    container: str = ""

    @property
    def is_member(self) -> bool:
        """Whether the image is in a tar."""
        return self.offset >= 0

    @property
    def archive(self) -> str:
        """The path of the outermost file that contains the image, below DATA or absolute."""
        return self.container or self.path[: self.path.index(".tar/") + len(".tar")]


@dataclass(frozen=True)
class SplitPlan:
    """One split: its images by sample_id (the rank of the key), and `order`, the sample ids in stored order.

    `sizes` (bytes), `offsets`, `modified_ns` and `order` are int64 (images,), `labels` is int32 (images,).
    `misnamed` are paths, see PlannedRow. `dropped` has a reason for each sample id that is not stored because --drop
    names it.
    If the images are added to records, `first_shard` and `first_id` say how many shards and sample ids of this split
    are taken.
    """

    name: str
    paths: tuple[str, ...]
    keys: tuple[str, ...]
    sizes: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    modified_ns: np.ndarray
    order: np.ndarray
    shard_count: int
    misnamed: frozenset[str] = frozenset()
    dropped: Mapping[int, str] = field(default_factory=dict)
    containers: tuple[str, ...] = ()
    first_shard: int = 0
    first_id: int = 0

    @property
    def shard_names(self) -> list[str]:
        """The file names of the shards, in order."""
        count = self.first_shard + self.shard_count
        return [shard_name(self.name, index, count) for index in range(self.first_shard, count)]

    @property
    def largest_row_bytes(self) -> int:
        """The size in bytes of the largest image that can be stored."""
        return int(self.sizes[self.sizes <= LARGEST_FILE_BYTES].max(initial=1))

    @property
    def largest_shard_bytes(self) -> int:
        """The size in bytes of all images of the largest shard."""
        return max(int(self.sizes[self.sample_ids(index)].sum()) for index in range(self.shard_count))

    def first_of_each_class(self, count: int) -> frozenset[int]:
        """Return the sample ids of the first `count` images of each class, by key."""
        by_label = np.argsort(self.labels, kind="stable")
        starts = np.searchsorted(self.labels[by_label], self.labels[by_label])
        return frozenset(by_label[np.arange(len(by_label)) - starts < count].tolist())

    def shard_rows(self, index: int) -> list[PlannedRow]:
        """Return the images of shard `index`, in stored order."""
        ids = self.sample_ids(index)
        columns = [column[ids].tolist() for column in (self.labels, self.sizes, self.offsets, self.modified_ns)]
        columns.append([self.paths[row] in self.misnamed for row in ids.tolist()])
        columns.append([self.containers[row] if self.containers else "" for row in ids.tolist()])
        return [
            PlannedRow(self.first_id + row, self.paths[row], self.keys[row], *numbers)
            for row, *numbers in zip(ids.tolist(), *columns, strict=True)
        ]

    def sample_ids(self, index: int) -> np.ndarray:
        """Return the sample ids of shard `index` less `first_id`, in stored order, int64 (images of the shard,)."""
        rows = len(self.order)
        return self.order[index * rows // self.shard_count : (index + 1) * rows // self.shard_count]


@dataclass(frozen=True)
class IngestPlan:
    """The whole ingest; `source` says where images and labels come from, and the manifest has it unchanged.

    `junk` counts by split and name what lies among the images and is none: only the manifest names it, because a file
    manager that leaves such a file must not make another plan. `parent` are the records that these images are added to,
    `known` the images of the source that these have already.
    """

    classes: tuple[ClassEntry, ...]
    splits: tuple[SplitPlan, ...]
    source: dict[str, Any]
    seed: int
    versions: dict[str, str]
    image_policy: ImagePolicy
    junk: dict[str, dict[str, int]] = field(default_factory=dict)
    parent: Parent | None = None
    known: tuple[LabelledSplit, ...] = ()

    @property
    def images(self) -> int:
        """The number of images in all splits."""
        return sum(len(split.paths) for split in self.splits)

    def pictured(self, split: str) -> frozenset[int]:
        """Return the sample ids of the images of a split that the report shows: a few of each class, from the first."""
        return self._pictured if split == self.splits[0].name else frozenset()

    @cached_property
    def _pictured(self) -> frozenset[int]:
        if self.parent is not None:
            return frozenset()  # the inherited shards show theirs
        return self.splits[0].first_of_each_class(thumbnails_per_class(len(self.classes)))

    @property
    def document(self) -> dict[str, Any]:
        """The plan as JSON: everything that the bytes of the records depend on."""
        inherited = {"inherited": self.parent.shards} if self.parent else {}
        return inherited | {
            "schema_version": SCHEMA_VERSION,
            "rules": rule_versions(),
            "versions": self.versions,
            "seed": self.seed,
            "classes": [[entry.wnid, entry.name] for entry in self.classes],
            "source": self.source,
            "treatment": self.image_policy.to_json(),
            "shards": {split.name: split.shard_count for split in self.splits},
        }


def rule_versions() -> dict[str, int]:
    """Return the versions of the rules that decide the bytes of records."""
    return {"image_checks": CHECKS_VERSION, "shard_order": SHARD_ORDER_VERSION, "writing": WRITING_VERSION}


def plan_tree(
    tree: LabelledTree,
    rule: ClassRule,
    seed: int,
    versions: Mapping[str, str],
    layout: Mapping[str, str],
    devkit_sha256: str | None,
    follows_links: bool = False,
    kaggle_sha256: str | None = None,
    image_policy: ImagePolicy = DEFAULT_IMAGE_POLICY,
    junk: Mapping[str, dict[str, int]] | None = None,
    given: Mapping[str, Any] | None = None,
    parent: Parent | None = None,
    train_shards: int | None = None,
) -> IngestPlan:
    """Return the plan for a labelled tree; `seed` shuffles train over its shards, other splits keep their keys' order.

    `devkit_sha256` and `kaggle_sha256` identify the files that the labels were verified against. `given` is what
    `source` says only of labels as their source gives them. With a `parent`, only the images that it does not have are
    planned, and numbers of images and bytes include its own. Raises IngestError when they contradict the parent, or do
    not fit into its pages, and when there are fewer images than `train_shards`.
    """
    known: tuple[LabelledSplit, ...] = ()
    if parent is not None:
        tree, known = _without_known(tree, parent, image_policy)
    splits = tuple(plan_split(split, seed, is_shuffled=split.name == "train") for split in _planned(tree, parent))
    if train_shards is not None:
        train = splits[0]
        if train_shards > len(train.paths):
            raise IngestError(f"--train-shards {train_shards}: train has only {len(train.paths):,} images; pass fewer")
        splits = (replace(train, shard_count=train_shards), *splits[1:])
    if parent is not None:
        splits = tuple(_behind(split, parent, image_policy) for split in splits)
    source = {
        "verified": tree.is_verified,
        "classes": parent.plan["source"]["classes"] if parent else rule.kind,
        "class_index": "rank of the wnid in ASCII order among the classes of these records",
        "layout": dict(layout),
        "images": {split.name: len(split.paths) for split in splits},
        "bytes": {split.name: int(split.sizes.sum()) for split in splits},
        "fingerprint": {split.name: fingerprint(split) for split in splits},
        "left_out": {split.name: split.left_out for split in tree.splits},
        "incomplete_classes": tree.incomplete_classes,
        "train_counts": _train_counts(tree, rule),
        "devkit_sha256": devkit_sha256,
        "kaggle_sha256": kaggle_sha256,
        "follows_links": follows_links,
    } | dict(given or {})
    if parent is not None:
        source |= _sums(source, parent) | {"parent": parent.identity}
        source |= {"relabelled": parent.relabelled} if parent.relabelled else {}
    return IngestPlan(tree.classes, splits, source, seed, dict(versions), image_policy, dict(junk or {}), parent, known)


def _planned(tree: LabelledTree, parent: Parent | None) -> tuple[LabelledSplit, ...]:
    """Return the splits to plan: those with images, or all of the parent's, of which an increment may lack some."""
    if parent is None:
        return tree.splits
    found = {split.name: split for split in tree.splits}
    return tuple(found.get(name, LabelledSplit(name)) for name in parent.manifest.splits)


def _without_known(
    tree: LabelledTree, parent: Parent, policy: ImagePolicy
) -> tuple[LabelledTree, tuple[LabelledSplit, ...]]:
    """Return the images that the parent does not have, and those that it has."""
    splits, known = {}, []
    for split in tree.splits:
        new = new_images(parent, split.name, split.keys, split.labels, split.sizes, policy.keeps_bytes)
        splits[split.name] = split.chosen(new)
        known.append(split.chosen(np.setdiff1d(np.arange(len(split.keys)), new).tolist()))
    train, val = (splits.get(name, LabelledSplit(name)) for name in ("train", "val"))
    incomplete = tree.incomplete_classes
    if incomplete is not None and tree.is_verified:
        counts = np.bincount(np.asarray(train.labels, np.int64), minlength=len(tree.classes))
        counts = counts + np.asarray(parent.manifest.splits["train"].rows_per_class)
        stated = [entry.devkit_train for entry in tree.classes]
        incomplete = sum(
            number is not None and count < number for count, number in zip(counts.tolist(), stated, strict=True)
        )
    new_tree = replace(tree, train=train, val=val, test=splits.get("test"), incomplete_classes=incomplete)
    return new_tree, tuple(known)


def _behind(split: SplitPlan, parent: Parent, policy: ImagePolicy) -> SplitPlan:
    """Return the plan of new images in shards of their own, behind those of the parent and with its pages."""
    split = replace(split, first_shard=len(parent.shards[split.name]), first_id=parent.images(split.name))
    if not split.paths:
        return replace(split, shard_count=0)
    header, page = parent.layouts[split.name]
    largest = policy.largest_row_bytes(split.largest_row_bytes)
    if largest > largest_image_bytes(page):
        raise IngestError(
            f"{split.name}: an image of {largest:,} bytes does not fit into the pages of {parent.root}, which have "
            f"{page:,} bytes; build all images again, without --onto"
        )
    for_header = -(-int(split.sizes.sum()) // shard_capacity(header, page))
    return replace(split, shard_count=max(split.shard_count, for_header))


def _sums(source: Mapping[str, Any], parent: Parent) -> dict[str, dict[str, int]]:
    stored = parent.plan["source"]
    return {name: {split: stored[name][split] + count for split, count in source[name].items()} for name in _SUMMED}


def _train_counts(tree: LabelledTree, rule: ClassRule) -> str:
    """Return how the number of train images was checked, in the stored words of plan and manifest."""
    if tree.incomplete_classes is not None and tree.is_verified:
        return "each class against the devkit"
    return "the total alone" if tree.is_verified and rule.kind == "all" else "not checked"


def plan_split(split: LabelledSplit, seed: int, is_shuffled: bool) -> SplitPlan:
    """Return the plan of one split: sorted by key, with its stored order and number of shards."""
    by_key = sorted(range(len(split.keys)), key=split.keys.__getitem__)
    rows = len(by_key)
    sizes = np.asarray(split.sizes, dtype=np.int64)[by_key]
    order = keyed_rng(seed, "shard order", split.name).permutation(rows) if is_shuffled else np.arange(rows)
    return SplitPlan(
        name=split.name,
        paths=tuple(split.paths[index] for index in by_key),
        keys=tuple(split.keys[index] for index in by_key),
        sizes=sizes,
        labels=np.asarray(split.labels, dtype=np.int32)[by_key],
        offsets=np.asarray(split.offsets, dtype=np.int64)[by_key],
        modified_ns=np.asarray(split.modified_ns, dtype=np.int64)[by_key],
        order=order,
        shard_count=count_shards(rows, int(sizes.sum())),
        misnamed=frozenset(split.misnamed),
        containers=tuple(split.containers[index] for index in by_key) if any(split.containers) else (),
    )


def count_shards(rows: int, total_bytes: int) -> int:
    """Return the number of shards: 2 GiB each and at most 64, but enough to keep eight workers busy."""
    for_size = -(-total_bytes // _SHARD_BYTES)
    for_parallelism = min(_SHARDS_FOR_PARALLELISM, -(-rows // _ROWS_WORTH_A_SHARD))
    return min(_MOST_SHARDS, max(for_size, for_parallelism, 1))


def fingerprint(split: SplitPlan) -> str:
    """Return the SHA-256 of path, size and label of each image, in the order of the keys."""
    digest = hashlib.sha256()
    for path, size, label in zip(split.paths, split.sizes.tolist(), split.labels.tolist(), strict=True):
        digest.update(f"{path}\0{size}\0{label}\n".encode())
    return digest.hexdigest()
