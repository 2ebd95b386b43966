"""What the header of an image from an untrusted source says, and which images are refused, without any decoder.

A header is checked before a decoder sees the image, which can crash it or fill the memory; see `images.py`. EXIF
orientation is ignored, as Pillow, torchvision and the published accuracies do. Knows nothing of files.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from convnext_imagenet.base.errors import ExpectedError

# Why an image is not stored. Tables and users hold these codes; the type checker checks every use of one.
Reason = Literal[
    "empty",
    "too_large",
    "unsupported",
    "truncated",
    "damaged",
    "dimensions",
    "not_a_file",
    "misnamed",
    "crashed",
    "timeout",
    "memory",
    "dropped",
]
REASONS: dict[Reason, str] = {
    "empty": "the file has no bytes",
    "too_large": "the file is larger than 64 MiB, or became so large when it was encoded again",
    "unsupported": "neither JPEG, PNG nor WebP, or a kind of JPEG that decoders do not agree on",
    "truncated": "the end is missing: in the header, or no end-of-image marker",
    "damaged": "the header contradicts itself, the content cannot be decoded, or the decoder warns that a part is lost",
    "dimensions": "a side of 0 or above 30,000 px, or above 64 million pixels",
    "not_a_file": "a link, pipe, device or folder where an image was expected",
    "misnamed": "a file without a name of ImageNet's, so that nothing verifies its label",
    "crashed": "the decoder process died of this image, twice in a row",
    "timeout": "decoding took longer than --image-timeout, twice in a row",
    "memory": "decoding needs more memory than --image-memory",
    "dropped": "--drop names the image",
}
# Raise when another image is refused, or the same one for another reason or with other words: the plans of RECORDS and
# PREDICTIONS name it (DECISIONS, 2026-11-28).
CHECKS_VERSION = 3
LARGEST_FILE_BYTES = 64 << 20  # bounds the memory that a file takes before anything is decoded
LARGEST_PIXELS = 64_000_000  # 192 MB as RGB
_LARGEST_SIDE_PX = 30_000  # the limit of pixels alone would let a strip of 1 x 64,000,000 px pass
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_WEBP_ALPHA, _WEBP_ANIMATION = 0x10, 0x02  # flags of the chunk VP8X (RFC 9649)
_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_OTHER_KINDS = (
    (rb"GIF8", "GIF"),
    (rb"BM", "BMP"),
    (rb"II\*\0|MM\0\*", "TIFF"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftyp(hei[cxms]|hev[cx]|mif1)", "HEIC"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
    (rb"\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"(?i)\s*(<!doctype html|<html)", "an HTML page"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml|<svg)", "XML or SVG"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"\x1f\x8b", "a gzip file"),
    (rb"%PDF", "PDF"),
    (rb"\0+$", "only zeros"),
)
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01  # JPEG markers, each after a byte 0xFF
_RESTARTS = range(0xD0, 0xD8)
_DECODABLE_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive: all decoders read these
_MOST_SEGMENTS = 5_000  # libjpeg walks its list of segments for each one: 4 million take hours (DECISIONS, 2026-11-24)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # these three are DHT, JPG and DAC, not frames


@dataclass(frozen=True)
class ImageInfo:
    """What the header says: `format` is jpeg, png or webp, `mode` is Pillow's name of the colour mode, sides in pixels.

    `warnings` counts what libjpeg warned of while it read the content; 0 as long as only the header was read.
    """

    format: str
    mode: str
    width: int
    height: int
    warnings: int = 0


@dataclass(frozen=True)
class PixelLimits:
    """The most pixels of an image that is decoded, and of one side of it."""

    pixels: int = LARGEST_PIXELS
    side: int = _LARGEST_SIDE_PX


USUAL_LIMITS = PixelLimits()


class BadImage(ExpectedError):
    """Bytes that are not stored as an image: `reason` is a code of `REASONS`, `detail` says what was found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    # Without it, pickle would call BadImage with the one message: this error travels between processes.
    def __reduce__(self) -> tuple[type["BadImage"], tuple[Reason, str]]:
        return BadImage, (self.reason, self.detail)


def _kind(data: bytes) -> str:
    """Return in words what a file that is no JPEG, PNG or WebP seems to be."""
    start = data[:64]
    return next((words for pattern, words in _OTHER_KINDS if re.match(pattern, start, re.DOTALL)), "an unknown kind")


def too_large(found: int | str) -> BadImage:
    """Return the error of a file of `found` bytes, more than LARGEST_FILE_BYTES."""
    return BadImage("too_large", f"{found} bytes, at most {LARGEST_FILE_BYTES} are read")


class TooManyPixels(BadImage):
    """An image with a valid header that is too large to be decoded; `info` is what its header says."""

    def __init__(self, info: ImageInfo, limits: PixelLimits) -> None:
        is_side = not (1 <= info.width <= limits.side and 1 <= info.height <= limits.side)
        sides_rule = f"each side must be from 1 to {limits.side}"
        pixels_rule = f"at most {limits.pixels} pixels are decoded"
        super().__init__("dimensions", f"{info.width} x {info.height} px, {sides_rule if is_side else pixels_rule}")
        self.info = info


def inspect_image(data: bytes, limits: PixelLimits = USUAL_LIMITS) -> ImageInfo:
    """Return what the header of a JPEG, PNG or WebP says. Raises BadImage unless the header is whole and valid."""
    if not data:
        raise BadImage("empty", "the file has no bytes")
    if len(data) > LARGEST_FILE_BYTES:
        raise too_large(len(data))
    if data.startswith(b"\xff\xd8"):
        info = _walk_jpeg(data)
    elif data.startswith(_PNG_SIGNATURE):
        info = _walk_png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        info = _walk_webp(data)
    else:
        raise BadImage("unsupported", f"{_kind(data)}, neither JPEG, PNG nor WebP: begins with {data[:8].hex(' ')}")
    _check_dimensions(info, limits)
    return info


def _check_dimensions(info: ImageInfo, limits: PixelLimits) -> None:
    is_side = not (1 <= info.width <= limits.side and 1 <= info.height <= limits.side)
    if is_side or info.width * info.height > limits.pixels:
        raise TooManyPixels(info, limits)


def _walk_jpeg(data: bytes) -> ImageInfo:
    position, info = 2, None
    for _ in range(_MOST_SEGMENTS):
        marker, position = _next_marker(data, position)
        if marker == _TEM or marker in _RESTARTS:
            continue
        if marker in (_SOI, _EOI):
            raise BadImage("damaged", f"marker FF{marker:02X} before any scan")
        if position + 2 > len(data):
            raise BadImage("truncated", "the file ends inside a JPEG segment")
        length = int.from_bytes(data[position : position + 2], "big")
        if length < 2:
            raise BadImage("damaged", f"a JPEG segment of length {length}, must be 2 at least")
        if position + length > len(data):
            raise BadImage("truncated", "the file ends inside a JPEG segment")
        if marker in _FRAMES:
            if info is not None:
                raise BadImage("damaged", "two frame headers")
            info = _read_frame(marker, data[position + 2 : position + length])
        if marker == _SOS:
            break
        position += length
    else:
        raise BadImage("damaged", f"no scan within the first {_MOST_SEGMENTS} JPEG segments")
    if info is None:
        raise BadImage("damaged", "a scan before any frame header")
    if data.rfind(b"\xff\xd9", position) < 0:
        raise BadImage("truncated", "no end-of-image marker after the scan")
    return info


def _next_marker(data: bytes, position: int) -> tuple[int, int]:
    if position < len(data) and data[position] != 0xFF:
        raise BadImage("damaged", f"byte {position} is {data[position]:02X}, expected a JPEG marker")
    while position < len(data) and data[position] == 0xFF:
        position += 1
    if position >= len(data):
        raise BadImage("truncated", "the file ends before the first scan")
    return data[position], position + 1


def _read_frame(marker: int, body: bytes) -> ImageInfo:
    if marker not in _DECODABLE_FRAMES:
        raise BadImage("unsupported", f"JPEG frame type FF{marker:02X}; baseline and progressive are read")
    if len(body) < 6:
        raise BadImage("damaged", "a frame header that is too short")
    precision, height, width, components = struct.unpack(">BHHB", body[:6])
    if precision != 8 or components not in _JPEG_MODES:
        raise BadImage("unsupported", f"{precision} bits and {components} components; 8 bits and 1, 3 or 4 are read")
    if len(body) != 6 + 3 * components:
        raise BadImage("damaged", "a frame header of the wrong length")
    samplings = body[7::3]
    if any(not (1 <= value >> 4 <= 4 and 1 <= value & 15 <= 4) for value in samplings):
        raise BadImage("damaged", "sampling factors outside 1..4")
    if any(max(sides) % side for sides in ([v >> 4 for v in samplings], [v & 15 for v in samplings]) for side in sides):
        raise BadImage("unsupported", "sampling factors that do not divide each other; no decoder makes pixels of them")
    return ImageInfo("jpeg", _JPEG_MODES[components], width, height)


def _walk_png(data: bytes) -> ImageInfo:
    position, info = len(_PNG_SIGNATURE), None
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise BadImage("damaged", f"PNG chunk at byte {position} has a wrong checksum")
        if info is None:
            info = _read_png_header(kind, data[position + 8 : end - 4])
        if kind == b"IEND":
            return info
        position = end
    raise BadImage("truncated", "the file ends before the last PNG chunk")


def _read_png_header(kind: bytes, body: bytes) -> ImageInfo:
    if kind != b"IHDR" or len(body) != 13:
        raise BadImage("damaged", "a PNG that does not begin with its header")
    width, height, _, colour = struct.unpack(">IIBB", body[:10])
    if colour not in _PNG_MODES:
        raise BadImage("damaged", f"PNG colour type {colour}")
    return ImageInfo("png", _PNG_MODES[colour], width, height)


def _walk_webp(data: bytes) -> ImageInfo:
    """Return what the chunks of a WebP say (RFC 9649): one frame, whose sides are those of the canvas."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise BadImage("truncated", f"a WebP of {end} bytes, {len(data)} are there")
    position, canvas, frame, has_alpha = 12, None, None, False
    while position + 8 <= end and frame is None:
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        body = data[position + 8 : position + 8 + length]
        if position + 8 + length > end:
            raise BadImage("truncated", "the file ends inside a WebP chunk")
        if kind == b"VP8X" and len(body) >= 10:
            if body[0] & _WEBP_ANIMATION:
                raise BadImage("unsupported", "an animated WebP; still images are read")
            has_alpha = bool(body[0] & _WEBP_ALPHA)
            canvas = tuple(int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
        elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
            frame = tuple(int.from_bytes(body[at : at + 2], "little") & 0x3FFF for at in (6, 8))
        elif kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
            bits = int.from_bytes(body[1:5], "little")
            frame, has_alpha = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), has_alpha or bool(bits >> 28 & 1)
        elif kind in (b"VP8X", b"VP8 ", b"VP8L"):
            raise BadImage("damaged", f"a WebP chunk {kind.decode().strip()} without its header")
        position += 8 + length + length % 2
    if frame is None or canvas not in (None, frame):
        raise BadImage("damaged", f"a WebP with a canvas of {canvas} and a frame of {frame} px")
    return ImageInfo("webp", "RGBA" if has_alpha else "RGB", *frame)
