"""A contact sheet of stored images: a few of each class, side by side, as one PNG or page. Writes no file."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.html import render
from convnext_imagenet.base.wording import as_word, plural
from convnext_imagenet.records.lettering import draw_text, text_width
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.row_source import RowSource
from convnext_imagenet.records.thumbnails import thumbnail

_LARGEST_SHEET_PIXELS = 200_000_000  # 600 MB of RGB in memory
_GAP_PX, _ROW_GAP_PX, _MARGIN_PX = 4, 12, 24
_FONT_PX, _CAPTION_PX = 13, 22
_PAPER, _INK, _EMPTY = (255, 255, 255), (70, 78, 86), (238, 240, 242)


@dataclass(frozen=True)
class Strip:
    """One class of the sheet: its pictures as small JPEGs, None for one that cannot be drawn."""

    entry: ClassEntry
    pictures: tuple[bytes | None, ...]


def read_strips(source: RowSource, wnids: Sequence[str], per_class: int, side_px: int) -> list[Strip]:
    """Return the strips of the classes `wnids` (all when empty), with the first images of each by sample id.

    Raises ArtefactError for an unknown wnid, a sheet that would be too large, and damaged images.
    """
    classes = _chosen(source, wnids)
    pixels = len(classes) * (per_class * (side_px + _GAP_PX)) * (side_px + _CAPTION_PX)
    if pixels > _LARGEST_SHEET_PIXELS:
        raise ArtefactError(
            f"{plural(len(classes), 'class')} with {plural(per_class, 'image')} of {side_px} px need "
            f"{pixels / 1e6:,.0f} megapixels, at most {_LARGEST_SHEET_PIXELS / 1e6:,.0f} are drawn; "
            f"pass a smaller --per-class or --side, or choose classes with --class"
        )
    rows = first_rows(source.labels.tolist(), source.sample_ids.tolist(), classes, per_class)
    return [Strip(e, tuple(thumbnail(source[row].image, side_px) for row in rows[e.index])) for e in classes]


def first_rows(
    labels: Sequence[int], sample_ids: Sequence[int], classes: Sequence[ClassEntry], per_class: int
) -> dict[int, list[int]]:
    """Return for each class index the positions in the split (0..rows-1) of its first images by sample id."""
    rows: dict[int, list[int]] = {entry.index: [] for entry in classes}
    for row in sorted(range(len(labels)), key=sample_ids.__getitem__):
        chosen = rows.get(labels[row])
        if chosen is not None and len(chosen) < per_class:
            chosen.append(row)
    return rows


def contact_sheet(strips: Sequence[Strip], side_px: int) -> bytes:
    """Return a PNG of all strips, each with index and name above it; the number of columns makes it about square."""
    widest = max(len(strip.pictures) for strip in strips)
    strip_width, strip_height = max(widest, 1) * (side_px + _GAP_PX) + _MARGIN_PX, side_px + _CAPTION_PX + _ROW_GAP_PX
    columns = min(len(strips), max(1, round(math.sqrt(len(strips) * strip_height / strip_width))))
    rows = -(-len(strips) // columns)
    size = (columns * strip_width + _MARGIN_PX, rows * strip_height + 2 * _MARGIN_PX - _ROW_GAP_PX)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, strip in enumerate(strips):
        left, top = _MARGIN_PX + number % columns * strip_width, _MARGIN_PX + number // columns * strip_height
        _draw_strip(sheet, draw, strip, left, top, strip_width - 2 * _GAP_PX, side_px)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def contact_page(strips: Sequence[Strip], title: str) -> bytes:
    """Return the sheet as an HTML page that needs no other file; a browser has letters of every script."""
    return render("records/report/gallery.html", title=title, strips=strips).encode()


def _draw_strip(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, strip: Strip, left: int, top: int, room_px: int, side_px: int
) -> None:
    text = f"{strip.entry.index}  {strip.entry.name.partition(',')[0]}"
    while text and text_width(draw, text, _FONT_PX) > room_px:
        text = f"{text.removesuffix('...')[:-1]}..." if text != "..." else ""
    draw_text(draw, (left, top + _CAPTION_PX - 5), text, _FONT_PX, _INK)
    for number, picture in enumerate(strip.pictures):
        corner = (left + number * (side_px + _GAP_PX), top + _CAPTION_PX)
        if picture is None:
            draw.rectangle((*corner, corner[0] + side_px - 1, corner[1] + side_px - 1), fill=_EMPTY)
        else:
            with Image.open(io.BytesIO(picture)) as drawn:
                sheet.paste(drawn, corner)


def _chosen(source: RowSource, wnids: Sequence[str]) -> list[ClassEntry]:
    known = {entry.wnid: entry for entry in source.classes}
    unknown = [wnid for wnid in wnids if wnid not in known]
    if unknown:
        command = f"convnext-records show {as_word(source.place)} --classes"
        raise ArtefactError(f"--class {unknown[0]}: not a class of these records; `{command}` lists them")
    return [known[wnid] for wnid in dict.fromkeys(wnids)] if wnids else list(source.classes)
