"""Text of any script on a picture: each letter in the first font of this machine that has it.

Pillow's own font has little more than ASCII, and draws a box for everything else. A letter that no font has is drawn
without its accent, or as its number in Unicode: never as a box. What is drawn depends on the fonts of the machine.
"""

import functools
import itertools
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_FOLDERS = ("~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts")
_ENDINGS = (".ttf", ".otf", ".ttc")
# Fonts for many scripts first; among the others the order of their paths decides.
_PREFERRED = ("dejavusans.ttf", "notosans-regular", "notosanscjk-regular", "unifont", "droidsansfallback", "wqy")
_MOST_FONTS = 400  # a desktop with thousands of fonts must not take minutes
_CANVAS_PX = 64
_NOBODY = "\U0010ffff"  # never a letter: every font draws it as what is missing

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_text(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size_px: int, fill: tuple[int, int, int]
) -> None:
    """Draw `text` from `corner`, the left end of its base line."""
    left, base = corner
    x = float(left)
    for font, run in _runs(text, size_px):
        draw.text((x, base), run, fill=fill, font=font, anchor="ls")
        x += draw.textlength(run, font)


def text_width(draw: ImageDraw.ImageDraw, text: str, size_px: int) -> float:
    """Return how many pixels `draw_text` takes for `text`."""
    return sum(draw.textlength(run, font) for font, run in _runs(text, size_px))


def _runs(text: str, size_px: int) -> Iterator[tuple[Font, str]]:
    """Yield the parts of a text, each with the font that has all its letters."""
    drawn = ((letter, _font_of(letter, size_px)) for letter in unicodedata.normalize("NFC", text))
    pieces = ((letter, font) if font else (_spelled(letter, size_px), _plain(size_px)) for letter, font in drawn)
    for font, run in itertools.groupby(pieces, key=lambda piece: piece[1]):
        yield font, "".join(letter for letter, _ in run)


def _spelled(letter: str, size_px: int) -> str:
    """Return a letter that no font has as letters that Pillow's font has."""
    base = unicodedata.normalize("NFKD", letter)[0]
    return base if _has(_plain(size_px), base) else f"U+{ord(letter):04X}"


@functools.cache
def _plain(size_px: int) -> Font:
    return ImageFont.load_default(size=size_px)


@functools.cache
def _font_of(letter: str, size_px: int) -> Font | None:
    """Return the first font that has a letter, None when none of this machine has it."""
    if _has(_plain(size_px), letter):
        return _plain(size_px)
    fonts = (_opened(path, size_px) for path in _font_files())
    return next((font for font in fonts if font and _has(font, letter)), None)


@functools.cache
def _font_files() -> tuple[Path, ...]:
    def preference(path: Path) -> tuple[int, str]:
        name = path.name.lower()
        rank = next((rank for rank, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))
        return rank, str(path)

    folders = (Path(os.path.expandvars(folder)).expanduser() for folder in _FOLDERS)
    files = (path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
    return tuple(sorted(files, key=preference)[:_MOST_FONTS])


@functools.cache
def _opened(path: Path, size_px: int) -> Font | None:
    try:
        return ImageFont.truetype(path, size_px)
    except OSError:
        return None


def _has(font: Font, letter: str) -> bool:
    """Return whether a font draws a letter otherwise than one that it cannot have."""
    return letter.isspace() or _drawn(font, letter) != _missing(font)


@functools.cache
def _missing(font: Font) -> bytes:
    return _drawn(font, _NOBODY)


def _drawn(font: Font, letter: str) -> bytes:
    picture = Image.new("L", (_CANVAS_PX, _CANVAS_PX))
    ImageDraw.Draw(picture).text((_CANVAS_PX // 4, _CANVAS_PX // 4), letter, fill=255, font=font)
    return picture.tobytes()
