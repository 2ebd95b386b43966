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
from convnext_imagenet.ingest.labels.classes import ClassRule, choose_classes, refuse_twins, twin_of
from convnext_imagenet.ingest.labels.devkit import OFFICIAL_TRAIN_IMAGES, OFFICIAL_VAL_PER_CLASS
from convnext_imagenet.ingest.source.folders import IMAGE_ENDINGS
from convnext_imagenet.ingest.source.scan_types import Folder, SplitScan, TreeScan, printable
from convnext_imagenet.records.manifest import ClassEntry

_ENDING = r"(?:\.[A-Za-z0-9]{1,8})?"  # what a file is, its content says
_SUFFIX = r"(?:_(n[0-9]{8}))?"  # Hugging Face's imagenet-1k has the wnid again
_TRAIN_NAME = re.compile(rf"(n[0-9]{{8}})_[0-9]+{_SUFFIX}{_ENDING}")
_VAL_NAME = re.compile(rf"ILSVRC2012_val_([0-9]{{8}}){_SUFFIX}{_ENDING}")
_KEY_AND_SUFFIX = re.compile(r"(n[0-9]{8}_[0-9]+|ILSVRC2012_val_[0-9]{8})_n[0-9]{8}")
NO_LABEL = -1
_FETCH = "download them, or pass --classes found to ingest the images that are there"
_NOT_IMAGENET = "remove it, or if all of the tree has other names than ImageNet's, pass --unverified"


@dataclass
class LabelledSplit:
    """The images of one split with their labels, column by column and in no particular order.

    `paths` are below DATA, `keys` name the rows in the records, `sizes` are in bytes, `labels` are class indices.
    `left_out` counts images of classes that were not chosen. `containers` are the files that hold the images of tars
    and tables, below DATA or absolute; if empty, the paths say it. `misnamed` are the paths of files whose name is not
    one of ImageNet's, so that nothing verifies their label, which is that of their folder, or NO_LABEL. `offsets` in a
    tar and `modified_ns` are as in Folder; if empty, all are -1.
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
    containers: list[str] = field(default_factory=list)

    @property
    def named_labels(self) -> Iterator[int]:
        """The labels of all files but the misnamed ones."""
        return (label for path, label in zip(self.paths, self.labels, strict=True) if path not in self.misnamed)

    def chosen(self, positions: Sequence[int]) -> "LabelledSplit":
        """Return the images at these positions."""
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
            containers=[self.containers[each] for each in positions],
        )

    def __post_init__(self) -> None:
        self.offsets = self.offsets or array("q", [-1]) * len(self.paths)
        self.modified_ns = self.modified_ns or array("q", [-1]) * len(self.paths)
        self.containers = self.containers or [""] * len(self.paths)


@dataclass(frozen=True)
class LabelledTree:
    """The classes by index and the splits; `train` is empty for images that are only evaluated.

    `incomplete_classes` counts classes with fewer train images than the devkit states, None without a devkit.
    """

    classes: tuple[ClassEntry, ...]
    train: LabelledSplit
    val: LabelledSplit
    incomplete_classes: int | None
    is_verified: bool
    test: LabelledSplit | None = None

    @property
    def splits(self) -> tuple[LabelledSplit, ...]:
        """The splits that have images."""
        return tuple(split for split in (self.train, self.val, self.test) if split is not None and split.paths)


def label_tree(tree: TreeScan, authority: LabelAuthority, rule: ClassRule) -> LabelledTree:
    """Return the labels of a tree with ImageNet's layout, verified against the devkit or Kaggle's files.

    Raises IngestError at the first contradiction between folder, file name, ground truth and counts.
    """
    chosen = choose_classes(rule, tree.train, authority.names, authority.title)
    index_of = {wnid: index for index, wnid in enumerate(chosen)}
    train = _label_split(tree.train, index_of, lambda folder: _train_wnids(folder, authority))
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
            "the images of val are in no class folders, so their labels are unknown without a devkit; put "
            "ILSVRC2012_devkit_t12.tar.gz beside them, or sort them into class folders"
        )
    for scanned in (tree.train, tree.val):
        refuse_twins(scanned.folders)
    chosen = choose_classes(rule, tree.train, leaves=None)
    index_of = {name: index for index, name in enumerate(chosen)}
    for folder in tree.val.folders:
        if folder.class_name not in index_of and (twin := twin_of(folder.class_name, index_of)):
            raise IngestError(
                f"{folder.path}: train/ has this class in another Unicode form, {twin!a} instead of "
                f"{folder.class_name!a}; give both folders one name: convmv -f utf8 -t utf8 --nfc -r --notest DATA"
            )
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
            path, key = f"{folder.path}/{name}", _key(name)
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
            split.containers.append(folder.container)
    return split


def _key(name: str) -> str:
    stem = name.rpartition(".")[0] or name
    match = _KEY_AND_SUFFIX.fullmatch(stem)
    return match[1] if match else stem


def _label_of_misnamed(scan: SplitScan, folder: Folder, index_of: Mapping[str, int]) -> int | None:
    """Return the class of the folder, NO_LABEL in a flat split; None when the class was not chosen."""
    return NO_LABEL if scan.is_flat else index_of.get(folder.class_name)


def _folder_names(folder: Folder) -> Iterator[str]:
    return itertools.repeat(folder.class_name, len(folder.names))


def _train_wnids(folder: Folder, authority: LabelAuthority) -> Iterator[str | None]:
    """Yield the class of each image; a val image, which imagenette has in train, must have it in the ground truth."""
    wrong: Counter[str] = Counter()
    class_name = folder.class_name
    wnids: list[str | None] = []
    for name in folder.names:
        match = _TRAIN_NAME.fullmatch(name)
        if match is None and (val := _VAL_NAME.fullmatch(name)):
            wnids.append(_true_wnid(folder, name, int(val[1]), val[2], authority, class_name))
            continue
        if match is None:
            _refuse_image_name(folder, name, "WNID_<number>.JPEG")
        elif match[1] != class_name:
            wrong[match[1]] += 1
        elif match[2] not in (None, class_name):
            raise IngestError(f"{folder.path}/{name}: the name says both {match[1]} and {match[2]}; download it again")
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
    for name in folder.names:
        match = _VAL_NAME.fullmatch(name)
        train = None if match or is_flat else _TRAIN_NAME.fullmatch(name)
        if train and {train[1], train[2] or train[1]} == {folder.class_name}:  # imagenette has train images in val
            yield train[1]
            continue
        if match is None:
            _refuse_image_name(folder, name, "ILSVRC2012_val_<8 digits>.JPEG")
            yield None
            continue
        stated = None if is_flat else folder.class_name
        yield _true_wnid(folder, name, int(match[1]), match[2], authority, stated)


def _true_wnid(
    folder: Folder, name: str, number: int, suffix: str | None, authority: LabelAuthority, stated: str | None
) -> str:
    """Return what the ground truth says of a val image. Raises IngestError if folder or suffix say something else."""
    val_wnids = authority.val_wnids
    if not 1 <= number <= len(val_wnids):
        raise IngestError(
            f"{folder.path}/{name}: the ground truth has only images 1 to {len(val_wnids):,}; "
            f"if the devkit belongs to another set, pass the right one with --devkit"
        )
    wnid = val_wnids[number - 1]
    if suffix is not None and wnid != suffix:
        raise IngestError(
            f"{folder.path}/{name}: the name says {suffix}, but the ground truth says {wnid}; download it again"
        )
    if stated is not None and wnid != stated:
        raise IngestError(
            f"{folder.path}/{name}: the folder says {stated}, but the ground truth says {wnid}; "
            f"unpack ILSVRC2012_img_val.tar again and leave it flat"
        )
    return wnid


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
    from_val = {path for path, key in zip(train.paths, train.keys, strict=True) if _VAL_NAME.fullmatch(key)}
    counts = Counter(
        label
        for path, label in zip(train.paths, train.labels, strict=True)
        if path not in train.misnamed and path not in from_val  # imagenette has val images in train
    )
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
