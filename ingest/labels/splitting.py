"""Which samples become val or test, if the source has made no split: by a keyed hash of the sample's name or group.

A sample's side depends on nothing but its own name (or its group's), so added images move none across. Two exceptions
keep a split useful: copies of one image are on one side, and no class is without val images. Pure: names in, splits
out.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import IngestError, first_few

DEFAULT_VAL_FRACTION = 0.1


@dataclass(frozen=True)
class Fractions:
    """The shares of all images that become val and test."""

    val: float = DEFAULT_VAL_FRACTION
    test: float = 0.0

    def wanted(self) -> tuple[str, ...]:
        """Return the splits that get a share."""
        return tuple(name for name, share in (("val", self.val), ("test", self.test)) if share > 0)


def split_samples(
    names: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str],
    contents: Mapping[int, str],
    fractions: Fractions,
) -> list[str]:
    """Return the split of each sample. `contents` has a digest for the numbers of samples that may have a copy.

    Samples of one group, or of one content, are on one side. Raises IngestError for a class that cannot have both train
    and val images, because all its images belong together.
    """
    units = _units(names, groups, contents)
    value = {unit: min(_place(groups[n] or names[n]) for n in members) for unit, members in units.items()}
    split = {unit: _by_value(each, fractions) for unit, each in value.items()}
    labels_of = {unit: {labels[n] for n in members} for unit, members in units.items()}
    _give_each_class(fractions.wanted(), value, labels_of, split)
    of_sample = [""] * len(names)
    for unit, members in units.items():
        for number in members:
            of_sample[number] = split[unit]
    return of_sample


def split_more(
    names: Sequence[str],
    groups: Sequence[str],
    contents: Mapping[int, str],
    known: Mapping[int, str],
    fractions: Fractions,
) -> list[str]:
    """Return the split of each sample that is added to others, by its name or group; `known` ones stay.

    Samples of one group, or of one content, are on the side of those that are known, as far as these are on one.
    """
    of_sample = [""] * len(names)
    for members in _units(names, groups, contents).values():
        sides = [known[number] for number in members if number in known]
        value = min(_place(groups[number] or names[number]) for number in members)
        for number in members:
            of_sample[number] = known.get(number) or (sides[0] if sides else _by_value(value, fractions))
    return of_sample


def _place(name: str) -> float:
    """Return a number from 0 to 1 that depends only on the name."""
    digest = hashlib.sha256(f"convnext_imagenet split\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _by_value(value: float, fractions: Fractions) -> str:
    if value < fractions.val:
        return "val"
    return "test" if value < fractions.val + fractions.test else "train"


def _units(names: Sequence[str], groups: Sequence[str], contents: Mapping[int, str]) -> dict[int, list[int]]:
    """Return the samples that must be on one side, by the first of them: of one group, of one content, or alone."""
    first_of: dict[tuple[str, str], int] = {}
    root = list(range(len(names)))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for number in range(len(names)):
        for key in (("group", groups[number]), ("content", contents.get(number, ""))):
            if key[1]:
                one, other = sorted((find(first_of.setdefault(key, number)), find(number)))
                root[other] = one
    units: dict[int, list[int]] = defaultdict(list)
    for number in range(len(names)):
        units[find(number)].append(number)
    return units


def _give_each_class(
    wanted: Sequence[str], value: Mapping[int, float], labels_of: Mapping[int, set[str]], split: dict[int, str]
) -> None:
    """Change `split` until each class has train images and images of each wanted split, with the fewest changes."""
    units_of: dict[str, list[int]] = defaultdict(list)
    for unit in sorted(value, key=lambda each: (value[each], each)):
        for label in labels_of[unit]:
            units_of[label].append(unit)
    short = sorted(label for label, units in units_of.items() if len(units) < 1 + len(wanted))
    if short:
        example = f"{len(units_of[short[0]])} of {1 + len(wanted)} needed"
        raise IngestError(
            f"{plural(len(short), 'class')} with too few images, or groups of images, to be in train and "
            f"{' and '.join(wanted)}: {first_few(short)} ({example}); add images, "
            f"or list the other classes in a file and pass --classes FILE"
        )
    for label in sorted(units_of):
        for name, end in (*((name, 0) for name in wanted), ("train", -1)):
            if any(split[unit] == name for unit in units_of[label]):
                continue
            counts = {each: sum(split[unit] == each for unit in units_of[label]) for each in ("train", "val", "test")}
            donors = [unit for unit in units_of[label] if counts[split[unit]] > 1] or units_of[label]
            split[donors[end]] = name
