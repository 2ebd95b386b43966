"""Images made smaller before they are stored, the same bytes on every machine with the same Pillow.

EXIF orientation is ignored here as everywhere: the pixels keep the orientation in which they are stored.
"""

import io

from PIL import Image

from convnext_imagenet.ingest.shards.image_policy import Reencoding, largest_reencoded_bytes
from convnext_imagenet.records.images import BadImage, ImageInfo, decode_rgb


def reencode(image: bytes, info: ImageInfo, how: Reencoding) -> tuple[bytes, ImageInfo] | None:
    """The smaller image and what it is; None when no side is above the limit, so that the file is kept as it is.

    Gray stays gray, everything else becomes RGB. Raises BadImage when the image cannot be decoded.
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
    return smaller, ImageInfo("jpeg", mode, width, height)


def fitted_sides(width: int, height: int, max_side_px: int) -> tuple[int, int]:
    """The sides in the same proportion, rounded, with the longer one equal to `max_side_px` and none below 1."""
    longer = max(width, height)

    def fitted(side: int) -> int:
        return max(1, (2 * side * max_side_px + longer) // (2 * longer))

    return fitted(width), fitted(height)
