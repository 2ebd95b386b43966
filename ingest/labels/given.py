"""Labels as a source of somebody's own images gives them: classes, splits and keys. Reads no file but for duplicates.

The key of a row is CLASS/NAME, in every layout: the same images give the same records, however they are packed.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.labels.classes import ClassRule
from convnext_imagenet.ingest.labels.labels import LabelledSplit, LabelledTree
from convnext_imagenet.ingest.labels.splitting import DEFAULT_VAL_FRACTION, Fractions, split_samples
from convnext_imagenet.ingest.source.samples import SPLITS, Sample, SampleTree, natural_order, require_names
from convnext_imagenet.ingest.source.scan_types import WNID
from convnext_imagenet.records.manifest import ClassEntry

_MOST_CLASSES = 100_000
# The digest of a sample's bytes, by its number among those given.
Digests = Callable[[Sequence[Sample]], Mapping[int, str]]


@dataclass(frozen=True)
class Wishes:
    """What the user asked for: shares of val and test (None if not asked), the column or folder that groups images.

    `is_eval_only`: every image becomes val. `keeps_order`: classes are numbered as the file of `--classes` lists them.
    """

    val_fraction: float | None = None
    test_fraction: float | None = None
    is_eval_only: bool = False
    keeps_order: bool = False


@dataclass(frozen=True)
class GivenLabels:
    """The labelled tree, and what plan and console say about it: how splits were made, how classes are numbered."""

    tree: LabelledTree
    split: str
    class_index: str


def usable_samples(source: SampleTree) -> list[Sample]:
    """Return the samples of a source. Raises IngestError if there is none, and for names that cannot be stored."""
    samples = list(source.samples)
    if not samples:
        raise IngestError(
            f"{source.kind}: contains no image with a label; choose their column with --label-column, or pass another "
            f"folder"
        )
    require_names(samples)
    return samples


def label_samples(
    source: SampleTree, rule: ClassRule, wishes: Wishes, unverified: bool, digests: Digests
) -> GivenLabels:
    """Return the labels of a source as it gives them; `digests` reads images, and is called only if a split is made.

    Raises IngestError for wnids without `unverified`, for options that the source leaves nothing to do, and for
    classes, groups or names that contradict each other.
    """
    samples = usable_samples(source)
    _refuse_wnids(source, unverified)
    classes, class_index = _classes(source, rule, wishes)
    index_of = {name: index for index, name in enumerate(classes)}
    chosen = [sample for sample in samples if sample.label in index_of]
    left_out = Counter(sample.split or "train" for sample in samples if sample.label not in index_of)
    chosen, how = _with_splits(source, chosen, wishes, digests)
    refuse_torn_groups(chosen)
    entries = tuple(ClassEntry(index, name, name) for name, index in index_of.items())
    train, val, test = as_splits(chosen, keys_of(chosen), index_of, left_out)
    _require_classes_in_train(source, (train, val, test), entries, wishes)
    tree = LabelledTree(entries, train, val, 0, is_verified=False, test=test if test.paths else None)
    return GivenLabels(tree, how, class_index)


def as_splits(
    samples: Sequence[Sample], keys: Sequence[str], index_of: Mapping[str, int], left_out: Mapping[str, int]
) -> tuple[LabelledSplit, ...]:
    """Return train, val and test of samples that have a split each; `left_out` counts images of other classes."""
    splits = {name: LabelledSplit(name, left_out=left_out.get(name, 0)) for name in SPLITS}
    for sample, key in zip(samples, keys, strict=True):
        _append(splits[sample.split], sample, key, index_of[sample.label])
    return tuple(splits.values())


def _append(split: LabelledSplit, sample: Sample, key: str, label: int) -> None:
    split.paths.append(sample.path)
    split.keys.append(key)
    split.sizes.append(sample.size)
    split.labels.append(label)
    split.offsets.append(sample.offset)
    split.modified_ns.append(sample.modified_ns)
    split.containers.append(sample.container)


def _refuse_wnids(source: SampleTree, unverified: bool) -> None:
    labels = {sample.label for sample in source.samples}
    if unverified or source.is_as_given or not all(WNID.fullmatch(label) for label in labels):
        return
    raise IngestError(
        f"{source.kind}: its classes are ImageNet's wnids, such as {min(labels)}, but nothing verifies them; put "
        f"ILSVRC2012_devkit_t12.tar.gz beside train and val, or pass --unverified to take these labels as they are, "
        f"with --eval-only if networks are only evaluated on this set"
    )


def _classes(source: SampleTree, rule: ClassRule, wishes: Wishes) -> tuple[tuple[str, ...], str]:
    """Return the classes by index, and the rule in words."""
    found = {sample.label for sample in source.samples}
    if len(found) > _MOST_CLASSES:
        raise IngestError(
            f"{source.kind}: {len(found):,} classes, at most {_MOST_CLASSES:,} are ingested; if the labels are names "
            f"of files or numbers of rows, choose another column"
        )
    if rule.kind == "file" and (unknown := [name for name in rule.names if name not in found]):
        raise IngestError(
            f"--classes: {first_few(unknown)}: no image has this label; remove it from the list, or add images"
        )
    if wishes.keeps_order:
        return rule.names, "order of the file of --classes"
    names = rule.names if rule.kind == "file" else found
    if source.class_order and set(source.class_order) >= set(names):
        return tuple(name for name in source.class_order if name in set(names)), "order that the source states"
    ordered, is_numbered = natural_order(names)
    how = "order of the numbers in the names" if is_numbered else "rank of the name in code point order"
    return tuple(ordered), how


def _with_splits(
    source: SampleTree, samples: list[Sample], wishes: Wishes, digests: Digests
) -> tuple[list[Sample], str]:
    """Return the samples with splits, and in words how they were made."""
    fractions = (wishes.val_fraction, wishes.test_fraction)
    if wishes.is_eval_only:
        if fractions != (None, None):
            raise IngestError("--eval-only makes every image val; leave --val-fraction and --test-fraction out")
        return [sample._replace(split="val") for sample in samples], split_words(samples, wishes, False)
    found = {sample.split for sample in samples}
    if {"train", "val"} <= found and "" not in found:
        if fractions != (None, None):
            raise IngestError(
                f"{source.kind}: has the splits {', '.join(source.splits)}; leave --val-fraction and "
                f"--test-fraction out"
            )
        return samples, split_words(samples, wishes, True)
    if "" in found and {"train", "val"} & found:
        without = [sample.title for sample in samples if not sample.split]
        raise IngestError(
            f"{source.kind}: {len(without):,} of {len(samples):,} images have no split, others have: "
            f"{first_few(without)}; give all a split, or none"
        )
    if "train" not in found and "" not in found:
        raise IngestError(
            f"{source.kind}: has only {' and '.join(source.splits)}, nothing to train on; to evaluate networks on it, "
            f"pass --eval-only"
        )
    if "test" in found and wishes.test_fraction:
        raise IngestError(f"{source.kind}: has the split test; leave --test-fraction out")
    return _split_by_hash(samples, wished_fractions(wishes), digests), split_words(samples, wishes, False)


def wished_fractions(wishes: Wishes) -> Fractions:
    """Return the shares of val and test, if splits are made."""
    val = DEFAULT_VAL_FRACTION if wishes.val_fraction is None else wishes.val_fraction
    return Fractions(val, wishes.test_fraction or 0.0)


def split_words(samples: Sequence[Sample], wishes: Wishes, is_given: bool) -> str:
    """Return how splits are made, in the words of plan and manifest."""
    if wishes.is_eval_only:
        return "all val (--eval-only)"
    if is_given:
        return "as given"
    fractions = wished_fractions(wishes)
    shares = f"val {fractions.val:g}" + (f", test {fractions.test:g}" if fractions.test else "")
    has_groups = any(sample.group for sample in samples if sample.split in ("", "train"))
    return f"by a hash of the {'groups' if has_groups else 'names'}: {shares}"


def _split_by_hash(samples: list[Sample], fractions: Fractions, digests: Digests) -> list[Sample]:
    if fractions.val + fractions.test >= 1:
        raise IngestError("--val-fraction and --test-fraction leave nothing to train on; their sum must be below 1")
    free = [n for n, sample in enumerate(samples) if sample.split in ("", "train")]
    names = [f"{samples[n].label}/{samples[n].name}" for n in free]
    labels, groups = [samples[n].label for n in free], [samples[n].group for n in free]
    contents = digests([samples[n] for n in free])
    split = list(samples)
    for number, name in zip(free, split_samples(names, labels, groups, contents, fractions), strict=True):
        split[number] = split[number]._replace(split=name)
    return split


def refuse_torn_groups(samples: Sequence[Sample]) -> None:
    """Raise IngestError for a group with images in several splits."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.group:
            splits_of[sample.group].add(sample.split)
    torn = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if torn:
        splits, listed = " and ".join(sorted(splits_of[torn[0]])), first_few([f"{one!a}" for one in torn])
        raise IngestError(
            f"{plural(len(torn), 'group')} in several splits: {listed}; {torn[0]!a} is in {splits}; put each "
            f"group into one split, or leave --group-by out"
        )


def keys_of(samples: Sequence[Sample]) -> list[str]:
    """Return CLASS/NAME of each sample; where a class has a name twice in a split, the whole path instead."""
    keys = [f"{sample.label}/{sample.name}" for sample in samples]
    counts = Counter((sample.split, key) for sample, key in zip(samples, keys, strict=True))
    return [
        key if counts[sample.split, key] == 1 else f"{sample.label}/{sample.path}"
        for sample, key in zip(samples, keys, strict=True)
    ]


def _require_classes_in_train(
    source: SampleTree, splits: Sequence[LabelledSplit], classes: Sequence[ClassEntry], wishes: Wishes
) -> None:
    if wishes.is_eval_only:
        return
    train, *others = splits
    trained = set(train.labels)
    for split in others:
        unknown = [classes[label].name for label in sorted(set(split.labels) - trained)]
        if unknown:
            raise IngestError(
                f"{source.kind}: {plural(len(unknown), 'class')} of {split.name} not in train: {first_few(unknown)}; "
                f"list the classes to ingest in a file and pass --classes FILE"
            )
    if missing := [entry.name for entry in classes if entry.index not in trained]:
        raise IngestError(f"{source.kind}: no image in train of {first_few(missing)}; add images or choose classes")
