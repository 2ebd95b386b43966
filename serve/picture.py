"""Draws a labelled picture: the image, enlarged if it is small, above a bar with its label and score."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from convnext_imagenet.base.files import make_folder, write_atomically

PICTURE_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_SMALLEST_SIDE_PX = 384  # room for a caption of about 25 letters
_SMALLEST_FONT_PX = 18  # readable without zooming
_JPEG_QUALITY = 92  # Pillow's default of 75 blurs small letters
_BAR, _INK, _FAINT, _ACCENT = (24, 26, 30), (245, 245, 245), (70, 74, 82), (94, 174, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def labelled_picture(image_HWC: np.ndarray, label: str, score: float) -> Image.Image:
    """Return the image, uint8 RGB (H, W, 3), above a bar with `label`, `score` (0..1) in percent, and a line for it.

    An image whose longer side is below 384 px is enlarged to it, and the picture is at least 384 px wide, so that the
    caption can be read. A label that is too long for the bar ends in "...".
    """
    image = _enlarged(Image.fromarray(image_HWC))
    width = max(image.width, _SMALLEST_SIDE_PX)
    font_px = max(_SMALLEST_FONT_PX, min(width // 18, image.height // 8))
    line_px, margin_px, bar_px = max(3, font_px // 5), font_px // 2, 2 * font_px
    picture = Image.new("RGB", (width, image.height + line_px + bar_px), _BAR)
    picture.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, image.height, width - 1, image.height + line_px - 1), fill=_FAINT)
    draw.rectangle((0, image.height, max(1, round(score * width)) - 1, image.height + line_px - 1), fill=_ACCENT)
    font = ImageFont.load_default(size=font_px)
    percent = f"{score:.1%}".replace("%", " %")
    room = width - 3 * margin_px - draw.textlength(percent, font)
    middle = image.height + line_px + bar_px // 2
    draw.text((margin_px, middle), _shortened(label, room, draw, font), fill=_INK, font=font, anchor="lm")
    draw.text((width - margin_px, middle), percent, fill=_INK, font=font, anchor="rm")
    return picture


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write the picture in the format of the file's ending, whole or not at all; make its folder. Raises OSError."""
    buffer = io.BytesIO()
    picture.save(buffer, PICTURE_FORMATS[path.suffix.lower()], quality=_JPEG_QUALITY)
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue())


def _enlarged(image: Image.Image) -> Image.Image:
    factor = _SMALLEST_SIDE_PX / max(image.size)
    if factor <= 1:
        return image
    sides = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(sides, Image.Resampling.BICUBIC)


def _shortened(text: str, room_px: float, draw: ImageDraw.ImageDraw, font: Font) -> str:
    if draw.textlength(text, font) <= room_px:
        return text
    while text and draw.textlength(f"{text}...", font) > room_px:
        text = text[:-1]
    return f"{text.rstrip()}..."
