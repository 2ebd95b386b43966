"""The audit as one HTML page: pairs side by side and doubtful images, the worst first. The words are in a template."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from convnext_imagenet.base.html import render
from convnext_imagenet.records.audit.flags import KINDS, Flag, count_kinds, worst_first
from convnext_imagenet.records.audit.pairs import Pair, are_other_labels
from convnext_imagenet.records.audit.sources import Source, image_name
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.images import decode_rgb

MOST_PAIRS, MOST_ROWS = 200, 200
_ODD = ("unreadable", "blank", "outlier", "tiny_content", "extreme_aspect")
_SIDE_PX = 192
_QUALITY = 75


@dataclass(frozen=True)
class Picture:
    """An image on the page: a small JPEG, None if it cannot be decoded, where it is, its split and its class."""

    jpeg: bytes | None
    name: str
    split: str
    wnid: str
    class_name: str


@dataclass(frozen=True)
class _Pictures:
    by_number: Mapping[int, bytes | None]
    rows: pa.Table
    class_names: Sequence[str]

    def of(self, number: int) -> Picture:
        """Return the picture of an image."""
        row = self.rows.slice(number, 1).to_pylist()[0]
        split, wnid, label = row["split"], row["wnid"] or "no class", row["label"]
        class_name = "" if label is None else _first_name(self.class_names[label])
        return Picture(self.by_number.get(number), image_name(split, row["key"]), split, wnid, class_name)


def report_page(
    source: Source,
    pairs: Sequence[Pair],
    flags: Sequence[Flag],
    noise: Sequence[tuple[str, str, int, int]] | None,
    facts: Mapping[str, Any],
) -> str:
    """Return the page.

    `noise` has class, the class that it looks like, rows and doubtful rows; None if labels were not examined.
    """
    rows = source.rows
    shown = worst_first(rows, pairs)[:MOST_PAIRS]
    doubtful = sorted((flag for flag in flags if _is(flag, "label")), key=lambda flag: (flag.score, flag.number))
    odd = sorted((flag for flag in flags if flag.kind in _ODD), key=lambda flag: (_ODD.index(flag.kind), flag.score))
    numbers = {number for pair in shown for number in (pair.first, pair.second)}
    numbers |= {flag.number for flag in (*doubtful[:MOST_ROWS], *odd[:MOST_ROWS])}
    pictures = _Pictures(_read_pictures(source, sorted(numbers)), rows, source.class_names)
    counts = count_kinds(flags)
    return render(
        "records/audit/audit.html",
        title="Data audit",
        images=rows.num_rows,
        flagged=len(flags),
        kind_rows=[(kind, KINDS[kind], counts[kind]) for kind in KINDS],
        pair_rows=_count_pairs(rows, pairs),
        pairs=[(pair, pictures.of(pair.first), pictures.of(pair.second)) for pair in shown],
        total_pairs=len(pairs),
        most_pairs=MOST_PAIRS,
        doubtful=[
            (flag, pictures.of(flag.number), _class(source, flag.suggested or 0)) for flag in doubtful[:MOST_ROWS]
        ],
        total_doubtful=len(doubtful),
        odd=[(flag, pictures.of(flag.number)) for flag in odd[:MOST_ROWS]],
        total_odd=len(odd),
        most_rows=MOST_ROWS,
        noise=noise,
        facts=facts,
    )


def _first_name(names: str) -> str:
    """Return the first of a class's names, which ImageNet separates by commas."""
    return names.partition(",")[0]


def _class(source: Source, index: int) -> str:
    return " ".join(filter(None, (source.wnids[index], _first_name(source.class_names[index]))))


def _is(flag: Flag, kind: str) -> bool:
    return kind == flag.kind or kind in flag.also


def _count_pairs(rows: pa.Table, pairs: Sequence[Pair]) -> list[tuple[object, ...]]:
    """Return splits, kind, number of pairs and those with other labels."""
    splits, labels = rows["split"].to_pylist(), rows["label"].to_pylist()
    counted: dict[tuple[str, str], list[int]] = {}
    for pair in pairs:
        key = (" + ".join(sorted({splits[pair.first], splits[pair.second]})), pair.kind)
        entry = counted.setdefault(key, [0, 0])
        entry[0] += 1
        entry[1] += are_other_labels(labels, pair)
    return [(*key, *entry) for key, entry in sorted(counted.items())]


def _read_pictures(source: Source, numbers: Sequence[int]) -> dict[int, bytes | None]:
    return {number: _jpeg(image) for number, image in zip(numbers, source.read(numbers), strict=True)}


def _jpeg(image: bytes | BadImage) -> bytes | None:
    """Return the whole image as a small JPEG; None when it cannot be decoded."""
    if isinstance(image, BadImage):
        return None
    try:
        picture = Image.fromarray(decode_rgb(image))
    except BadImage:
        return None
    picture.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
