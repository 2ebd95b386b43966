"""The report as one HTML page that needs no other file. Pure: numbers in, text out.

The words of the page are in templates/report.html. Knows nothing of files.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convnext_imagenet.base.html import BarChart, render
from convnext_imagenet.records.manifest import ClassEntry, Manifest
from convnext_imagenet.records.report.charts import histogram_chart
from convnext_imagenet.records.report.numbers import Duplicate, Histogram, Numbers, SplitNumbers, count_by_splits

_MOST_LISTED = 200  # a browser is slow with tables of thousands of lines; the Parquet files list all
_CHARTS = (("width", "Width", "px"), ("height", "Height", "px"), ("bytes", "File size", "bytes"))


@dataclass(frozen=True)
class Count:
    """Stored images of a class in a split, and the number that the devkit states, None without a devkit."""

    stored: int
    devkit: int | None

    @property
    def differs(self) -> bool:
        """Whether the split has another number of images than the devkit states."""
        return self.devkit is not None and self.devkit != self.stored


@dataclass(frozen=True)
class ClassLine:
    """One line of the class table: counts by split, images in quarantine, and small JPEGs."""

    entry: ClassEntry
    counts: tuple[Count, ...]
    quarantined: int
    pictures: tuple[bytes, ...]

    @property
    def differs(self) -> bool:
        """Whether any split has another number of images than the devkit states."""
        return any(count.differs for count in self.counts)


@dataclass(frozen=True)
class Figure:
    """A histogram, the chart of it, and the unit of its values."""

    chart: BarChart
    histogram: Histogram
    unit: str


def report_page(
    manifest: Manifest,
    numbers: Numbers,
    quarantined: Sequence[Mapping[str, Any]],
    thumbnails: Mapping[int, Sequence[bytes]],
) -> str:
    """Return the page; `thumbnails` maps a class index to a few small JPEGs.

    `quarantined` has a mapping (path, label, reason, detail) for each image that was not stored.
    """
    lines = class_lines(manifest, quarantined, thumbnails)
    is_counted = any(entry.devkit_train is not None for entry in manifest.classes)
    reasons = Counter(entry["reason"] for entry in quarantined)
    return render(
        "records/report/report.html",
        title="ImageNet records" if manifest.verified_against else "Records",
        most_listed=_MOST_LISTED,
        split_names=list(manifest.splits),
        images=sum(split.images for split in numbers.splits.values()),
        size=_size(sum(split.bytes for split in numbers.splits.values())),
        warned=sum(split.warned for split in numbers.splits.values()),
        accepts_warnings=manifest.accepts_warnings,
        verified_against=manifest.verified_against,
        is_counted=is_counted,
        has_names=any(entry.name != entry.wnid for entry in manifest.classes),
        differing=sum(line.differs for line in lines),
        split_rows=list(_split_rows(manifest, numbers)),
        figures={name: _figures(split) for name, split in numbers.splits.items()},
        mode_rows=_mode_rows(list(numbers.splits.values())),
        duplicates=len(numbers.duplicates),
        within_rows=list(count_by_splits(numbers.duplicates)),
        duplicate_rows=[_duplicate_row(duplicate) for duplicate in numbers.duplicates[:_MOST_LISTED]],
        quarantined=len(quarantined),
        reason_rows=sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])),
        file_rows=[(entry["path"], entry["reason"], entry["detail"]) for entry in quarantined[:_MOST_LISTED]],
        lines=lines,
        count_heads=[
            head for name in manifest.splits for head in ((name, f"{name}, devkit") if is_counted else (name,))
        ],
        facts={"plan id": manifest.plan_id, "seed": manifest.seed, **_facts(manifest)},
    )


def class_lines(
    manifest: Manifest, quarantined: Sequence[Mapping[str, Any]], thumbnails: Mapping[int, Sequence[bytes]]
) -> list[ClassLine]:
    """Return one line of the class table for each class."""
    bad = Counter(entry["label"] for entry in quarantined)
    return [
        ClassLine(
            entry=entry,
            counts=tuple(
                Count(split.rows_per_class[entry.index], entry.devkit_images(name))
                for name, split in manifest.splits.items()
            ),
            quarantined=bad[entry.index],
            pictures=tuple(thumbnails.get(entry.index, ())),
        )
        for entry in manifest.classes
    ]


def _size(images_bytes: int) -> str:
    gigabytes = images_bytes / 1e9
    return f"{gigabytes:,.1f} GB" if gigabytes >= 0.1 else f"{gigabytes * 1e3:,.1f} MB"


def _split_rows(manifest: Manifest, numbers: Numbers) -> Iterator[tuple[object, ...]]:
    for name, split in manifest.splits.items():
        stored = sum(shard.bytes + shard.index_bytes for shard in split.shards)
        images = numbers.splits[name].bytes
        overhead = f"{100 * (stored / images - 1):.2f} %" if images else "-"
        spread, shards = _spread(split.rows_per_class), len(split.shards)
        yield name, split.rows, spread, split.quarantined, numbers.splits[name].warned, images, shards, overhead


def _spread(counts: Sequence[int]) -> str:
    if not counts:
        return "-"
    return f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{counts[0]:,}"


def _figures(split: SplitNumbers) -> list[Figure]:
    return [
        Figure(histogram_chart(split.histograms[column], title), split.histograms[column], unit)
        for column, title, unit in _CHARTS
    ]


def _mode_rows(splits: Sequence[SplitNumbers]) -> list[tuple[object, ...]]:
    """Return each mode with its number of images by split, the most frequent mode first."""
    modes = [dict(split.modes) for split in splits]
    counts = {mode: [images.get(mode, 0) for images in modes] for mode in set().union(*modes)}
    return [(mode, *counts[mode]) for mode in sorted(counts, key=lambda mode: (-sum(counts[mode]), mode))]


def _duplicate_row(duplicate: Duplicate) -> tuple[str, str, str]:
    copies = "\n".join(
        f"{copy.split}/{copy.wnid}/{copy.key.removeprefix(f'{copy.wnid}/')}" for copy in duplicate.copies
    )
    return duplicate.splits, "several" if duplicate.has_two_labels else "one", copies


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Return source and versions in the order of their names, which is the order of a manifest that was read."""
    return dict(sorted(_flat(manifest.source).items())) | dict(sorted(manifest.versions.items()))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        flat |= _flat(inner, f"{name}, ") if isinstance(inner, Mapping) else {name: inner}
    return flat
