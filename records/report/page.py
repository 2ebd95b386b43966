"""The report as one HTML page that needs no other file. Pure: numbers in, text out; every foreign text is escaped.

The frame, tables and links of such a page serve other reports, too.
"""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.records.report.charts import histogram_svg
from convnext_imagenet.records.report.classes import ClassLine, classes_section
from convnext_imagenet.records.report.numbers import Duplicate, Numbers, SplitNumbers, count_places

_MOST_LISTED = 200
_ANCHORS = {
    "images": "Images",
    "duplicates": "Duplicates",
    "quarantine": "Quarantine",
    "class-table": "Classes",
    "provenance": "Provenance",
}
_HERE = Path(__file__).resolve().parent
_CHARTS = (("width", "Width", "px"), ("height", "Height", "px"), ("bytes", "File size", "bytes"))


def report_page(
    manifest: Manifest,
    numbers: Numbers,
    quarantined: Sequence[Mapping[str, Any]],
    thumbnails: Mapping[int, Sequence[bytes]],
) -> str:
    """The page; `thumbnails` maps a class index to a few small JPEGs, `quarantined` says what was not stored."""
    lines = class_lines(manifest, quarantined, thumbnails)
    sections = (
        _head(manifest, numbers, len(quarantined), sum(line.differs for line in lines)),
        _summary(manifest, numbers),
        _images(numbers),
        _duplicates(numbers.duplicates),
        _quarantine(quarantined),
        classes_section(lines, list(manifest.splits)),
        _provenance(manifest),
    )
    return html_page("ImageNet records", "".join(sections))


def html_page(title: str, body: str, more_style: str = "") -> str:
    """A whole page around `body`, with the style and the script of `classes_section`'s table written into it."""
    style, script = ((_HERE / f"report.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}{more_style}</style>\n</head>\n<body>\n{body}<script>\n{script}</script>\n"
        "</body>\n</html>\n"
    )


def links_to(anchors: Mapping[str, str]) -> str:
    """A line of links to sections of the page: anchors and what they are called."""
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in anchors.items())
    return f"<nav>{links}</nav>"


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def class_lines(
    manifest: Manifest, quarantined: Sequence[Mapping[str, Any]], thumbnails: Mapping[int, Sequence[bytes]]
) -> list[ClassLine]:
    """One line of the class table for each class."""
    bad = Counter(entry["label"] for entry in quarantined)
    return [
        ClassLine(
            entry=entry,
            images={name: split.rows_per_class[entry.index] for name, split in manifest.splits.items()},
            quarantined=bad[entry.index],
            pictures=tuple(data_uri(picture) for picture in thumbnails.get(entry.index, ())),
        )
        for entry in manifest.classes
    ]


def table(heads: Iterable[str], rows: Iterable[Iterable[object]], is_long: bool = False) -> str:
    """A plain table; a head that begins with # marks a column of numbers, a long table scrolls in its own box."""
    heads = list(heads)
    marks = [' class="n"' if head.startswith("#") else "" for head in heads]
    head = "".join(f"<th{mark}>{escape(text.lstrip('#'))}</th>" for text, mark in zip(heads, marks, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{mark}>{_cell(value)}</td>' for value, mark in zip(row, marks, strict=True))}</tr>\n"
        for row in rows
    )
    kind = "scroll long" if is_long else "scroll"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def plural(number: int, noun: str) -> str:
    """The number with its noun: 1 class, 2 classes, 0 images."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _head(manifest: Manifest, numbers: Numbers, bad: int, differing: int) -> str:
    against = manifest.verified_against
    labels = f"labels verified against {against}" if against else '<span class="bad">labels not verified</span>'
    is_counted = any(entry.devkit_train is not None for entry in manifest.classes)
    images = sum(split.images for split in numbers.splits.values())
    gigabytes = sum(split.bytes for split in numbers.splits.values()) / 1e9
    size = f"{gigabytes:,.1f} GB" if gigabytes >= 0.1 else f"{gigabytes * 1e3:,.1f} MB"
    differ = (
        f"{plural(differing, 'class')} unlike the devkit" if differing else "Every class is as the devkit counts it"
    )
    return (
        f"<header><h1>ImageNet records</h1>\n<p>{plural(len(manifest.classes), 'class')}, {plural(images, 'image')}, "
        f"{size}; {labels}.</p>\n<p>{f'{differ}; ' if is_counted else ''}"
        f"{plural(len(numbers.duplicates), 'set')} of exact duplicates; {plural(bad, 'image')} in quarantine.</p>\n"
        f"{links_to(_ANCHORS)}</header>\n"
    )


def _summary(manifest: Manifest, numbers: Numbers) -> str:
    rows = []
    for name, split in manifest.splits.items():
        stored = sum(shard.bytes + shard.index_bytes for shard in split.shards)
        images = numbers.splits[name].bytes
        overhead = f"{100 * (stored / images - 1):.2f} %" if images else "-"
        spread, shards = _spread(split.rows_per_class), len(split.shards)
        rows.append((name, split.rows, spread, split.quarantined, images, shards, overhead))
    heads = ("Split", "#Images", "#Per class", "#In quarantine", "#Bytes of images", "#Shards", "#Overhead of shards")
    return f"<section><h2>Splits</h2>\n{table(heads, rows)}</section>\n"


def _spread(counts: Sequence[int]) -> str:
    if not counts:
        return "-"
    return f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{counts[0]:,}"


def _images(numbers: Numbers) -> str:
    charts = "".join(f"<h3>{escape(name)}</h3>\n{_charts(split)}" for name, split in numbers.splits.items())
    modes = sorted({mode for split in numbers.splits.values() for mode, _ in split.modes})
    counts = {mode: [dict(split.modes).get(mode, 0) for split in numbers.splits.values()] for mode in modes}
    rows = [(mode, *counts[mode]) for mode in sorted(modes, key=lambda mode: (-sum(counts[mode]), mode))]
    heads = ("Mode", *(f"#{name}" for name in numbers.splits))
    return f'<section id="images"><h2>Images</h2>\n{charts}<h3>Colour modes</h3>\n{table(heads, rows)}</section>\n'


def _charts(split: SplitNumbers) -> str:
    figures = "".join(histogram_svg(split.histograms[column], title, unit) for column, title, unit in _CHARTS)
    return f'<div class="charts">{figures}</div>\n'


def _duplicates(duplicates: Sequence[Duplicate]) -> str:
    if not duplicates:
        return '<section id="duplicates"><h2>Duplicates</h2>\n<p>No two images have the same bytes.</p></section>\n'
    places = table(("Within", "#Sets", "#Under several labels"), count_places(duplicates))
    rows = (
        (
            each.place,
            "several" if each.has_two_labels else "one",
            "\n".join(f"{c.split}/{c.wnid}/{c.key}" for c in each.copies),
        )
        for each in duplicates[:_MOST_LISTED]
    )
    return (
        '<section id="duplicates"><h2>Duplicates</h2>\n<p>Images with the same SHA-256. All of them are kept.</p>\n'
        f"{places}<h3>Sets</h3>\n{table(('Within', 'Labels', 'Images'), rows, is_long=True)}"
        f"{_rest(len(duplicates), 'sets', 'index.parquet, by sha256')}</section>\n"
    )


def _quarantine(quarantined: Sequence[Mapping[str, Any]]) -> str:
    if not quarantined:
        return '<section id="quarantine"><h2>Quarantine</h2>\n<p>Every image was stored.</p></section>\n'
    reasons = sorted(Counter(entry["reason"] for entry in quarantined).items(), key=lambda pair: (-pair[1], pair[0]))
    rows = ((entry["path"], entry["reason"], entry["detail"]) for entry in quarantined[:_MOST_LISTED])
    return (
        '<section id="quarantine"><h2>Quarantine</h2>\n<p>Images that were not stored.</p>\n'
        f"{table(('Reason', '#Images'), reasons)}<h3>Files</h3>\n"
        f"{table(('File', 'Reason', 'Found'), rows, is_long=True)}"
        f"{_rest(len(quarantined), 'files', 'quarantine.parquet')}</section>\n"
    )


def _rest(number: int, what: str, where: str) -> str:
    return f'<p class="dim">The first {_MOST_LISTED} of {number:,} {what}; all are in {where}.</p>\n' * (
        number > _MOST_LISTED
    )


def _provenance(manifest: Manifest) -> str:
    return provenance_section(
        {"plan id": manifest.plan_id, "seed": manifest.seed, **_flat(manifest.source), **manifest.versions}
    )


def provenance_section(facts: Mapping[str, Any]) -> str:
    """What the page was made from: names and values."""
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td><code>{escape(str(value))}</code></td></tr>\n" for key, value in facts.items()
    )
    return f'<section id="provenance"><h2>Provenance</h2>\n<table><tbody>{rows}</tbody></table></section>\n'


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        flat |= _flat(inner, f"{name}, ") if isinstance(inner, Mapping) else {name: inner}
    return flat
