"""What the report counts: sizes, modes and duplicates. Pure: the index of all stored images in, numbers out.

Knows nothing of HTML.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

INDEX_COLUMNS = ("split", "key", "wnid", "bytes", "width", "height", "mode", "sha256", "warnings")
HISTOGRAM_COLUMNS = ("width", "height", "bytes")
_BINS = 40  # bars of 8 px in a chart of 320 px
_SHARE_IN_BINS = 0.99  # a few huge images must not squeeze all others into the first bin


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins of `step` from 0; the last bin also holds everything above it."""

    step: int
    counts: tuple[int, ...]
    smallest: int
    median: int
    largest: int


@dataclass(frozen=True)
class SplitNumbers:
    """One split: images, bytes of all images, images of each mode (most frequent first), histograms by column.

    `warned` counts the images of which libjpeg warned.
    """

    images: int
    bytes: int
    warned: int
    modes: tuple[tuple[str, int], ...]
    histograms: dict[str, Histogram]


@dataclass(frozen=True, order=True)
class Copy:
    """One of several stored images with the same bytes."""

    split: str
    key: str
    wnid: str


@dataclass(frozen=True, order=True)
class Duplicate:
    """Stored images with the same bytes, in order of split and key."""

    copies: tuple[Copy, ...]

    @property
    def splits(self) -> str:
        """The names of the splits that contain copies, joined by +."""
        return " + ".join(sorted({copy.split for copy in self.copies}))

    @property
    def has_two_labels(self) -> bool:
        """Whether the copies belong to different classes."""
        return len({copy.wnid for copy in self.copies}) > 1


@dataclass(frozen=True)
class Numbers:
    """All that the report counts in the index."""

    splits: dict[str, SplitNumbers]
    duplicates: tuple[Duplicate, ...]


def count(index: pa.Table, splits: Sequence[str]) -> Numbers:
    """Return the numbers of a table with INDEX_COLUMNS; `splits` has the names of the splits in the order to show."""
    parts = {name: index.filter(pc.equal(index["split"], name)) for name in splits}
    # One range for all splits, so that their histograms can be compared.
    steps = {column: histogram_step(_values(index, column)) for column in HISTOGRAM_COLUMNS}
    return Numbers({name: _split_numbers(part, steps) for name, part in parts.items()}, find_duplicates(index))


def histogram_step(values: np.ndarray) -> int:
    """Return the width of a bin: 1, 2 or 5 times a power of ten, so that 99 % of the values are inside the bins."""
    top = float(np.quantile(values, _SHARE_IN_BINS)) if values.size else 1.0
    rough = max(1.0, top / _BINS)
    power = 10 ** int(np.floor(np.log10(rough)))
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough)


def histogram(values: np.ndarray, step: int) -> Histogram:
    """Return the histogram of non-negative integers, int64 (n,), with 40 bins of `step`."""
    if not values.size:
        return Histogram(step, (0,) * _BINS, 0, 0, 0)
    bins = np.minimum(values // step, _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    return Histogram(
        step,
        tuple(counts.tolist()),
        int(values.min()),
        int(np.quantile(values, 0.5, method="lower")),
        int(values.max()),
    )


def find_duplicates(index: pa.Table) -> tuple[Duplicate, ...]:
    """Return every set of images with the same SHA-256; sets over several splits or labels come first."""
    groups: dict[str, list[Copy]] = {}
    for row in _copied_rows(index, ["sha256", "split", "key", "wnid"]):
        groups.setdefault(row["sha256"], []).append(Copy(row["split"], row["key"], row["wnid"]))
    duplicates = [Duplicate(tuple(sorted(copies))) for copies in groups.values()]
    return tuple(sorted(duplicates, key=lambda copied: ("+" not in copied.splits, not copied.has_two_labels, copied)))


def count_shared(index: pa.Table) -> int:
    """Return the number of sets of images with the same SHA-256 that are in more than one split."""
    splits: dict[str, set[str]] = {}
    for row in _copied_rows(index, ["sha256", "split"]):
        splits.setdefault(row["sha256"], set()).add(row["split"])
    return sum(len(names) > 1 for names in splits.values())


def _copied_rows(index: pa.Table, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows whose SHA-256 another row has, too."""
    counted = pc.value_counts(index["sha256"])
    twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    return index.select(columns).filter(pc.is_in(index["sha256"], twice)).to_pylist()


def count_by_splits(duplicates: Sequence[Duplicate]) -> Iterator[tuple[str, int, int]]:
    """Yield each combination of splits, its number of sets of copies, and how many of them have different labels."""
    for splits in sorted({duplicate.splits for duplicate in duplicates}):
        chosen = [duplicate for duplicate in duplicates if duplicate.splits == splits]
        yield splits, len(chosen), sum(duplicate.has_two_labels for duplicate in chosen)


def _split_numbers(part: pa.Table, steps: dict[str, int]) -> SplitNumbers:
    counted = pc.value_counts(part["mode"])
    modes = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return SplitNumbers(
        images=part.num_rows,
        bytes=pc.sum(part["bytes"]).as_py() or 0,
        warned=pc.sum(pc.greater(part["warnings"], 0)).as_py() or 0,
        modes=tuple(sorted(modes, key=lambda pair: (-pair[1], pair[0]))),
        histograms={column: histogram(_values(part, column), step) for column, step in steps.items()},
    )


def _values(table: pa.Table, column: str) -> np.ndarray:
    return table[column].to_numpy().astype(np.int64)
