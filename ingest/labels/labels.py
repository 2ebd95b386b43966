"""The label of each image, checked against folder, file name, ground truth and counts. Pure: names in, labels out.

Reads no file; where images are stored is decided later.
"""

import itertools
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.labels.authority import LabelAuthority
from convnext_imagenet.ingest.labels.classes import ClassRule, choose_classes
from convnext_imagenet.ingest.labels.devkit import OFFICIAL_TRAIN_IMAGES, OFFICIAL_VAL_PER_CLASS
from convnext_imagenet.ingest.source.folders import IMAGE_ENDINGS
from convnext_imagenet.ingest.source.scan_types import Folder, SplitScan, TreeScan, printable
from convnext_imagenet.records.manifest import ClassEntry

_ENDING = r"(?:\.[A-Za-z0-9]{1,8})?"  # what a file is, its content says
_TRAIN_NAME = re.compile(rf"(n[0-9]{{8}})_[0-9]+{_ENDING}")
_VAL_NAME = re.compile(rf"ILSVRC2012_val_([0-9]{{8}}){_ENDING}")
NO_LABEL = -1
_FETCH = "download them, or pass --classes found to ingest the images that are there"
_NOT_IMAGENET = "if the tree does not have ImageNet's file names, pass --unverified"


@dataclass
class LabelledSplit:
    """The images of one split with their labels, column by column and in no particular order.

    `paths` are below DATA, `keys` name the rows in the records, `sizes` are in bytes, `labels` are class indices.
    `left_out` counts images of classes that were not chosen. `misnamed` are the paths of files whose name is not one of
    ImageNet's, so that nothing verifies their label, which is that of their folder, or NO_LABEL. `offsets` in a tar and
    `modified_ns` are as in Folder; if empty, all are -1. `already_stored` counts images that records have to which the
    others are added.
    """

    name: str
    paths: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    sizes: array = field(default_factory=lambda: array("q"))
    labels: array = field(default_factory=lambda: array("i"))
    left_out: int = 0
    misnamed: set[str] = field(default_factory=set)
    offsets: array = field(default_factory=lambda: array("q"))
    modified_ns: array = field(default_factory=lambda: array("q"))
    already_stored: int = 0

    @property
    def named_labels(self) -> Iterator[int]:
        """The labels of all files but the misnamed ones."""
        return (label for path, label in zip(self.paths, self.labels, strict=True) if path not in self.misnamed)

    def chosen(self, positions: Sequence[int]) -> "LabelledSplit":
        """Return the images at these positions; the others are counted as already stored."""
        paths = [self.paths[each] for each in positions]
        return LabelledSplit(
            name=self.name,
            paths=paths,
            keys=[self.keys[each] for each in positions],
            sizes=array("q", [self.sizes[each] for each in positions]),
            labels=array("i", [self.labels[each] for each in positions]),
            left_out=self.left_out,
            misnamed=self.misnamed & set(paths),
            offsets=array("q", [self.offsets[each] for each in positions]),
            modified_ns=array("q", [self.modified_ns[each] for each in positions]),
            already_stored=len(self.paths) - len(paths),
        )

    def __post_init__(self) -> None:
        self.offsets = self.offsets or array("q", [-1]) * len(self.paths)
        self.modified_ns = self.modified_ns or array("q", [-1]) * len(self.paths)


@dataclass(frozen=True)
class LabelledTree:
    """The classes by index and both splits.

    `incomplete_classes` counts classes with fewer train images than the devkit states, None without a devkit.
    """

    classes: tuple[ClassEntry, ...]
    train: LabelledSplit
    val: LabelledSplit
    incomplete_classes: int | None
    is_verified: bool


def label_tree(tree: TreeScan, authority: LabelAuthority, rule: ClassRule) -> LabelledTree:
    """Return the labels of a tree with ImageNet's layout, verified against the devkit or Kaggle's files.

    Raises IngestError at the first contradiction between folder, file name, ground truth and counts.
    """
    chosen = choose_classes(rule, tree.train, authority.names, authority.title)
    index_of = {wnid: index for index, wnid in enumerate(chosen)}
    train = _label_split(tree.train, index_of, _train_wnids)
    val = _label_split(tree.val, index_of, lambda folder: _val_wnids(folder, tree.val.is_flat, authority))
    incomplete = _check_train_counts(train, chosen, authority, must_be_complete=rule.kind == "all")
    if rule.kind == "all":
        _check_val_counts(val, chosen)
    labelled = LabelledTree(_class_entries(index_of, authority), train, val, incomplete, is_verified=True)
    return _require_images(labelled, must_have_both=rule.kind != "fixed")


def label_plain_tree(tree: TreeScan, rule: ClassRule) -> LabelledTree:
    """Return the labels of a class-folder tree without a devkit: the folder is the label, and nothing can verify it.

    Raises IngestError for a flat val, a val class that train does not have, and names that cannot be keys.
    """
    if tree.val.is_flat:
        raise IngestError(
            "val/ is flat, so its labels are unknown without a devkit; sort its images into class folders"
        )
    chosen = choose_classes(rule, tree.train, leaves=None)
    index_of = {name: index for index, name in enumerate(chosen)}
    if rule.kind != "file":
        unknown = [folder.path for folder in tree.val.folders if folder.class_name not in index_of]
        if unknown:
            raise IngestError(
                f"{first_few(unknown)}: in val/ but not in train/; "
                f"list the classes to ingest in a file and pass --classes FILE"
            )
    train, val = (_label_split(split, index_of, _folder_names) for split in (tree.train, tree.val))
    for split in (train, val):
        split.keys = [path.partition("/")[2] for path in split.paths]
        unprintable = [repr(path) for path in split.paths if not path.isprintable()]
        if unprintable:
            raise IngestError(
                f"{first_few(unprintable)}: not printable UTF-8; rename these files or folders ({len(unprintable)})"
            )
    classes = tuple(ClassEntry(index, name, name) for name, index in index_of.items())
    labelled = LabelledTree(classes, train, val, incomplete_classes=0, is_verified=False)
    return _require_images(labelled, must_have_both=rule.kind != "fixed")


def _class_entries(index_of: Mapping[str, int], authority: LabelAuthority) -> tuple[ClassEntry, ...]:
    """Return the classes by index, with the devkit's counts if the devkit is the authority."""
    if authority.train_images is None:
        return tuple(ClassEntry(index, wnid, authority.names[wnid]) for wnid, index in index_of.items())
    train, val = authority.train_images, Counter(authority.val_wnids)
    return tuple(
        ClassEntry(index, wnid, authority.names[wnid], train[wnid], val[wnid]) for wnid, index in index_of.items()
    )


def _label_split(
    scan: SplitScan, index_of: Mapping[str, int], wnids_of: Callable[[Folder], Iterator[str | None]]
) -> LabelledSplit:
    """Return each image of the chosen classes with its label.

    `wnids_of` yields the wnid of each image of a folder, None for a name that says none.
    """
    split = LabelledSplit(scan.name)
    for folder in scan.folders:
        # A flat val is one folder of all classes, so only in train can a whole folder be skipped unread.
        if scan.name == "train" and folder.class_name not in index_of:
            split.left_out += len(folder.names)
            continue
        columns = (folder.names, folder.sizes, folder.offsets, folder.modified_ns, wnids_of(folder))
        for name, size, offset, modified_ns, wnid in zip(*columns, strict=True):
            path, key = f"{folder.path}/{name}", name.rpartition(".")[0] or name
            if wnid is None:
                label, key = _label_of_misnamed(scan, folder, index_of), path
                split.misnamed.add(path)
            else:
                label = index_of.get(wnid)
            if label is None:
                split.left_out += 1
                split.misnamed.discard(path)
                continue
            split.paths.append(path)
            split.keys.append(key)
            split.sizes.append(size)
            split.labels.append(label)
            split.offsets.append(offset)
            split.modified_ns.append(modified_ns)
    return split


def _label_of_misnamed(scan: SplitScan, folder: Folder, index_of: Mapping[str, int]) -> int | None:
    """Return the class of the folder, NO_LABEL in a flat split; None when the class was not chosen."""
    return NO_LABEL if scan.is_flat else index_of.get(folder.class_name)


def _folder_names(folder: Folder) -> Iterator[str]:
    return itertools.repeat(folder.class_name, len(folder.names))


def _train_wnids(folder: Folder) -> Iterator[str | None]:
    wrong: Counter[str] = Counter()
    class_name = folder.class_name
    wnids: list[str | None] = []
    for name in folder.names:
        match = _TRAIN_NAME.fullmatch(name)
        if match is None:
            _refuse_image_name(folder, name, "WNID_<number>.JPEG")
        elif match[1] != class_name:
            wrong[match[1]] += 1
        wnids.append(match and class_name)
    if wrong:
        other, _ = wrong.most_common(1)[0]
        first = next(name for name in folder.names if name.startswith(f"{other}_"))
        raise IngestError(
            f"{folder.path}: {wrong.total():,} of its {len(folder.names):,} images have the name of another class, "
            f"such as {first}; move them, or rename the folder to {other} if it is that class"
        )
    return iter(wnids)


def _refuse_image_name(folder: Folder, name: str, expected: str) -> None:
    """Raise IngestError for an image of another set; any other file becomes a row of the quarantine."""
    if name.lower().endswith(IMAGE_ENDINGS):
        raise IngestError(f"{folder.path}/{printable(name)}: not named {expected}; {_NOT_IMAGENET}")


def _val_wnids(folder: Folder, is_flat: bool, authority: LabelAuthority) -> Iterator[str | None]:
    val_wnids = authority.val_wnids
    for name in folder.names:
        match = _VAL_NAME.fullmatch(name)
        if match is None:
            _refuse_image_name(folder, name, "ILSVRC2012_val_<8 digits>.JPEG")
            yield None
            continue
        number = int(match[1])
        if not 1 <= number <= len(val_wnids):
            raise IngestError(
                f"{folder.path}/{name}: the ground truth has only images 1 to {len(val_wnids):,}; "
                f"if the devkit belongs to another set, pass the right one with --devkit"
            )
        wnid = val_wnids[number - 1]
        if not is_flat and wnid != folder.class_name:
            raise IngestError(
                f"{folder.path}/{name}: the folder says {folder.class_name}, but the ground truth says {wnid}; "
                f"unpack ILSVRC2012_img_val.tar again and leave it flat"
            )
        yield wnid


def _check_train_counts(
    train: LabelledSplit, chosen: tuple[str, ...], authority: LabelAuthority, must_be_complete: bool
) -> int | None:
    """Return the number of classes with too few images, None when the authority does not state how many there are.

    Raises IngestError for too many images in a class, and for too few if the set must be complete. Without counts by
    class, a complete set must have the official total.
    """
    if authority.train_images is None:
        images = len(train.labels) - len(train.misnamed)
        if must_be_complete and images != OFFICIAL_TRAIN_IMAGES:
            raise IngestError(
                f"train/: {images:,} images, but the official set has {OFFICIAL_TRAIN_IMAGES:,}; {_FETCH}"
            )
        return None
    counts = Counter(train.named_labels)
    incomplete = []
    for index, wnid in enumerate(chosen):
        expected = authority.train_images[wnid]
        if counts[index] > expected:
            raise IngestError(
                f"train/{wnid}: {counts[index]:,} images, but the devkit states {expected:,}; remove the added ones"
            )
        if counts[index] < expected:
            incomplete.append(f"{wnid} has {counts[index]:,} of {expected:,}")
    if incomplete and must_be_complete:
        raise IngestError(
            f"train/: {len(incomplete)} of {len(chosen)} classes lack images ({first_few(incomplete)}); {_FETCH}"
        )
    return len(incomplete)


def _check_val_counts(val: LabelledSplit, chosen: tuple[str, ...]) -> None:
    counts = Counter(val.named_labels)
    wrong = [
        f"{wnid} has {counts[index]} of {OFFICIAL_VAL_PER_CLASS}"
        for index, wnid in enumerate(chosen)
        if counts[index] != OFFICIAL_VAL_PER_CLASS
    ]
    if wrong:
        raise IngestError(f"val/: {len(wrong)} of {len(chosen)} classes lack images ({first_few(wrong)}); {_FETCH}")


def _require_images(tree: LabelledTree, must_have_both: bool) -> LabelledTree:
    """Return the tree unchanged. Raises IngestError for a split without images, and for a key that two images have."""
    for split in (tree.train, tree.val):
        if must_have_both and len(split.paths) == len(split.misnamed):
            raise IngestError(
                f"{split.name}/: contains no image of the {len(tree.classes)} chosen classes; "
                f"add images, or choose others with --classes"
            )
        if len(set(split.keys)) != len(split.keys):
            key, count = Counter(split.keys).most_common(1)[0]
            paths = [path for path, other in zip(split.paths, split.keys, strict=True) if other == key]
            raise IngestError(f"{first_few(paths)}: {count} images have the same name {key}; keep one of them")
    return tree
