"""Labels of images that are added to records of somebody's own images: classes, splits and keys stay as they are there.

An image gets the side that it would have got in a build of all images, but no image that is stored moves. Reads no file
but for copies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.labels.given import (
    GivenLabels,
    Wishes,
    as_splits,
    keys_of,
    refuse_torn_groups,
    split_words,
    usable_samples,
    wished_fractions,
)
from convnext_imagenet.ingest.labels.labels import LabelledTree
from convnext_imagenet.ingest.labels.splitting import split_more
from convnext_imagenet.ingest.source.samples import Sample, SampleTree
from convnext_imagenet.records.manifest import ClassEntry

# The digest of a sample's bytes, by its number, for those that may be a copy of another or of a stored image.
Digests = Callable[[Sequence[Sample]], Mapping[int, str]]


@dataclass(frozen=True)
class Stored:
    """What the records have: `split` and `class_index` say in words how splits were made and classes are numbered.

    `splits` are the names of the splits, `split_of_key` and `split_of_content` where each image is, by key and SHA-256.
    """

    title: str
    classes: tuple[ClassEntry, ...]
    class_index: str
    split: str
    splits: tuple[str, ...]
    split_of_key: Mapping[str, str]
    split_of_content: Mapping[str, str]


def label_more_samples(source: SampleTree, stored: Stored, wishes: Wishes, digests: Digests) -> GivenLabels:
    """Return the labels of a source whose images are added to records, those that are stored already included.

    Raises IngestError for a class or split that the records do not have, and where splits would be made otherwise.
    """
    samples = usable_samples(source)
    index_of = {entry.wnid: entry.index for entry in stored.classes}
    if new := sorted({sample.label for sample in samples} - index_of.keys()):
        raise IngestError(
            f"{first_few(new)}: not among the {plural(len(index_of), 'class')} of {stored.title}, and a new class "
            f"would change the class indices; build all images again, without --onto"
        )
    samples = _with_splits(source, samples, stored, wishes, digests)
    refuse_torn_groups(samples)
    train, val, test = as_splits(samples, keys_of(samples), index_of, {})
    tree = LabelledTree(stored.classes, train, val, 0, is_verified=False, test=test if test.paths else None)
    return GivenLabels(tree, stored.split, stored.class_index)


def _with_splits(
    source: SampleTree, samples: list[Sample], stored: Stored, wishes: Wishes, digests: Digests
) -> list[Sample]:
    """Return the samples with splits made as those of the records were."""
    is_given = all(sample.split for sample in samples) and not (wishes.val_fraction or wishes.test_fraction)
    words = split_words(samples, wishes, is_given and stored.split == "as given")
    if words != stored.split:
        raise IngestError(
            f"{stored.title}: its splits are {stored.split!r}, but here they would be {words!r}; pass images with the "
            f"same splits, or the same --val-fraction, --test-fraction, --group-by and --eval-only"
        )
    if wishes.is_eval_only:
        return [sample._replace(split="val") for sample in samples]
    if words != "as given":
        samples = _split_by_hash(samples, stored, wishes, digests)
    if unknown := sorted({sample.split for sample in samples} - set(stored.splits)):
        raise IngestError(f"{source.kind}: has the split {unknown[0]}, which {stored.title} has not; leave it out")
    return samples


def _split_by_hash(samples: list[Sample], stored: Stored, wishes: Wishes, digests: Digests) -> list[Sample]:
    names = [f"{sample.label}/{sample.name}" for sample in samples]
    known = {n: sample.split for n, sample in enumerate(samples) if sample.split not in ("", "train")}
    for number, sample in enumerate(samples):
        split = stored.split_of_key.get(names[number]) or stored.split_of_key.get(f"{sample.label}/{sample.path}")
        known |= {number: split} if split else {}
    fresh = [number for number in range(len(samples)) if number not in known]
    found = digests([samples[number] for number in fresh])
    contents = {fresh[place]: content for place, content in found.items()}
    known |= {
        number: stored.split_of_content[content]
        for number, content in contents.items()
        if content in stored.split_of_content
    }
    sides = split_more(names, [sample.group for sample in samples], contents, known, wished_fractions(wishes))
    return [sample._replace(split=side) for sample, side in zip(samples, sides, strict=True)]
