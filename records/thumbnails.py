"""Small pictures of stored images, for the report and the contact sheet.

Pillow resizes with integers, so equal images give equal bytes on every processor.
"""

import io

from PIL import Image

THUMBNAIL_PX = 96
_JPEG_QUALITY = 70  # enough to recognise a class at this size
_MOST_THUMBNAILS = 2000  # the report stays at a few MB
_MOST_PER_CLASS = 6


def thumbnails_per_class(classes: int) -> int:
    """Return how many images of each class a report shows: 1 to 6, and about 2,000 in total."""
    return max(1, min(_MOST_PER_CLASS, _MOST_THUMBNAILS // classes))


def thumbnail(image: bytes, side_px: int = THUMBNAIL_PX) -> bytes | None:
    """Return a square JPEG cut from the middle of a checked image; None when Pillow cannot read what OpenCV could."""
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.draft("RGB", (2 * side_px, 2 * side_px))  # libjpeg decodes at a smaller scale, much faster
            box = _middle_square(*opened.size)
            pixels = opened.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC, box=box)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _middle_square(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
