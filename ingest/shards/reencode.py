"""Shrinks and converts images before they are stored; machines with the same Pillow write the same bytes.

EXIF orientation is ignored here as everywhere: the pixels keep the orientation in which they are stored.
"""

import io

from PIL import Image

from convnext_imagenet.ingest.shards.image_policy import (
    LARGEST_CONVERTED_BYTES,
    Conversion,
    Reencoding,
    largest_reencoded_bytes,
)
from convnext_imagenet.records.image_headers import LARGEST_PIXELS, BadImage, ImageInfo
from convnext_imagenet.records.images import decode_rgb

CONVERTED_KINDS = ("BMP", "GIF", "TIFF", "AVIF")  # Pillow's names
_GRAY_MODES = ("1", "L", "LA", "I;16", "I;16L", "I;16B")
_WIDE_MODES = ("I", "F")  # Pillow would cut them off at 255: nearly black or white
_LARGEST_SIDE_PX = 30_000
LARGEST_SHRUNK_PIXELS = 170_000_000  # below twice Pillow's own limit, above which it refuses to open an image


def reencode(image: bytes, info: ImageInfo, how: Reencoding) -> tuple[bytes, ImageInfo] | None:
    """Return the smaller image and what it is; None when no side is above the limit: then the file is kept unchanged.

    Gray stays gray, everything else becomes RGB; the number of warnings stays that of the file. Raises BadImage when
    the image cannot be decoded or stays too large.
    """
    if max(info.width, info.height) <= how.max_side_px:
        return None
    mode = "L" if info.mode == "L" else "RGB"
    width, height = fitted_sides(info.width, info.height, how.max_side_px)
    is_large = info.width * info.height > LARGEST_PIXELS
    whole = _at_smaller_scale(image, 2 * how.max_side_px) if is_large else Image.fromarray(decode_rgb(image))
    pixels = whole.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    pixels.convert(mode).save(buffer, "JPEG", quality=how.quality)
    smaller = buffer.getvalue()
    if len(smaller) > largest_reencoded_bytes(how):
        raise BadImage("too_large", f"{len(smaller)} bytes after it was encoded again; pass a lower --quality")
    return smaller, ImageInfo("jpeg", mode, width, height, info.warnings)


def _at_smaller_scale(image: bytes, side_px: int) -> Image.Image:
    """Return a JPEG as RGB, decoded at a half, a quarter or an eighth of its sides, and no smaller than `side_px`.

    Raises BadImage when it is still too large, or damaged.
    """
    try:
        with Image.open(io.BytesIO(image), formats=("JPEG",)) as opened:
            opened.draft("RGB", (side_px, side_px))
            if opened.width * opened.height > LARGEST_PIXELS:
                raise BadImage("dimensions", f"{opened.width} x {opened.height} px at the scale of --max-side")
            return opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImage("damaged", f"Pillow: {error}") from None


def fitted_sides(width: int, height: int, max_side_px: int) -> tuple[int, int]:
    """Return the sides in the same proportion, rounded, the longer one equal to `max_side_px` and none below 1."""
    longer = max(width, height)

    def fitted(side: int) -> int:
        return max(1, (2 * side * max_side_px + longer) // (2 * longer))  # integers round alike on every machine

    return fitted(width), fitted(height)


def convert(image: bytes, how: Conversion) -> bytes | None:
    """Return the first frame of a BMP, GIF, TIFF or AVIF as PNG or JPEG; None for an image of any other kind.

    Gray stays gray, 16 bits become 8, everything else becomes RGB. Raises BadImage when the image cannot be decoded,
    has more than 16 bits, of which nobody knows the range, or more pixels or bytes than are stored.
    """
    try:
        opened = Image.open(io.BytesIO(image), formats=CONVERTED_KINDS)
    except (OSError, ValueError, SyntaxError):
        return None
    except Image.DecompressionBombError as error:
        raise BadImage("dimensions", f"Pillow: {error}") from None
    with opened:
        kind, (width, height) = opened.format, opened.size
        if not (1 <= min(width, height) <= max(width, height) <= _LARGEST_SIDE_PX and width * height <= LARGEST_PIXELS):
            raise BadImage(
                "dimensions", f"{kind} of {width} x {height} px, at most {LARGEST_PIXELS} pixels are decoded"
            )
        if opened.mode in _WIDE_MODES:
            raise BadImage(
                "unsupported", f"{kind} of 32 bits, signed numbers or fractions; 8 and 16 bits are converted"
            )
        buffer = io.BytesIO()
        try:
            _eight_bits(opened).save(buffer, "JPEG" if how.quality else "PNG", **_options(how))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise BadImage("damaged", f"{kind}, Pillow: {error}") from None
    if len(buffer.getvalue()) > LARGEST_CONVERTED_BYTES:
        raise BadImage(
            "too_large",
            f"{kind} of {len(buffer.getvalue())} bytes after it was converted; pass --quality or --max-side",
        )
    return buffer.getvalue()


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256).convert("L")
    return image.convert("L" if image.mode in _GRAY_MODES else "RGB")


def _options(how: Conversion) -> dict[str, int]:
    return {"quality": how.quality} if how.quality else {}
