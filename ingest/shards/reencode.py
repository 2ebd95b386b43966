"""Shrinks images before they are stored; machines with the same Pillow write the same bytes.

EXIF orientation is ignored here as everywhere: the pixels keep the orientation in which they are stored.
"""

import io

from PIL import Image

from convnext_imagenet.ingest.shards.image_policy import Reencoding, largest_reencoded_bytes
from convnext_imagenet.records.images import BadImage, ImageInfo, decode_rgb


def reencode(image: bytes, info: ImageInfo, how: Reencoding) -> tuple[bytes, ImageInfo] | None:
    """Return the smaller image and what it is; None when no side is above the limit: then the file is kept unchanged.

    Gray stays gray, everything else becomes RGB; the number of warnings stays that of the file. Raises BadImage when
    the image cannot be decoded or stays too large.
    """
    if max(info.width, info.height) <= how.max_side_px:
        return None
    mode = "L" if info.mode == "L" else "RGB"
    width, height = fitted_sides(info.width, info.height, how.max_side_px)
    pixels = Image.fromarray(decode_rgb(image)).resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    pixels.convert(mode).save(buffer, "JPEG", quality=how.quality)
    smaller = buffer.getvalue()
    if len(smaller) > largest_reencoded_bytes(how):
        raise BadImage("too_large", f"{len(smaller)} bytes after it was encoded again; pass a lower --quality")
    return smaller, ImageInfo("jpeg", mode, width, height, info.warnings)


def fitted_sides(width: int, height: int, max_side_px: int) -> tuple[int, int]:
    """Return the sides in the same proportion, rounded, the longer one equal to `max_side_px` and none below 1."""
    longer = max(width, height)

    def fitted(side: int) -> int:
        return max(1, (2 * side * max_side_px + longer) // (2 * longer))  # integers round alike on every machine

    return fitted(width), fitted(height)
