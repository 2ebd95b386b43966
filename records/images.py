"""Image bytes from an untrusted source, decoded: the header is checked first, by `image_headers.py`.

OpenCV decodes, and Pillow decodes what OpenCV reads differently (DECISIONS, 2026-11-23). Before a JPEG is stored,
libjpeg reads all of it, see `jpeg_warnings.py`. Knows nothing of files.
"""

import dataclasses
import io

import cv2
import numpy as np
from PIL import Image

from convnext_imagenet.records.image_headers import (
    LARGEST_PIXELS,
    USUAL_LIMITS,
    BadImage,
    ImageInfo,
    PixelLimits,
    inspect_image,
)
from convnext_imagenet.records.jpeg_warnings import JpegWarnings, UnreadableJpeg, jpeg_warnings_and_luminance
from convnext_imagenet.records.small_picture import Luminance

_SHORT_OF_MEMORY = ("(-4:", "bad_alloc")  # cv::Error::StsNoMem, and C++'s own exception
cv2.setNumThreads(1)  # the callers run several processes or threads; OpenCV's own threads would compete with them


def check_image(data: bytes, accept_warnings: bool = False, largest_pixels: int = LARGEST_PIXELS) -> ImageInfo:
    """Return what the image is, after the whole content was read once. Raises BadImage when anything is wrong.

    The coefficients of a JPEG are read without making pixels of them, and a warning that means lost data refuses it,
    too, unless `accept_warnings`. Raises JpegLibraryError when this machine cannot check JPEGs.
    """
    return check_image_and_luminance(data, accept_warnings, largest_pixels, wants_luminance=False)[0]


def check_image_and_luminance(
    data: bytes, accept_warnings: bool = False, largest_pixels: int = LARGEST_PIXELS, wants_luminance: bool = True
) -> tuple[ImageInfo, Luminance | None]:
    """Return what the image is, as `check_image`, and what a small gray picture needs of its luminance.

    The latter is None if it is not wanted, for PNG and WebP, and for a JPEG without luminance.
    """
    info = inspect_image(data, PixelLimits(largest_pixels))
    if info.format != "jpeg":
        _decode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
        return info, None
    warnings, light = _read_jpeg(data, wants_luminance)
    if warnings.lost and not accept_warnings:
        raise BadImage("damaged", _words(warnings))
    return dataclasses.replace(info, warnings=warnings.count), light


def _read_jpeg(data: bytes, wants_luminance: bool) -> tuple[JpegWarnings, Luminance | None]:
    try:
        return jpeg_warnings_and_luminance(data, wants_luminance)
    except UnreadableJpeg as error:
        raise BadImage("memory" if error.is_memory else "damaged", f"libjpeg: {error}") from None


def _words(warnings: JpegWarnings) -> str:
    others = warnings.count - 1
    more = f", and {others:,} more warning{'s' * (others != 1)}" if others else ""
    return f"{warnings.lost}{more}"


def decode_rgb(data: bytes, limits: PixelLimits = USUAL_LIMITS) -> np.ndarray:
    """Return the image as uint8 (height, width, 3) in RGB order. Raises BadImage when it cannot be decoded."""
    info = inspect_image(data, limits)
    if info.mode in ("L", "RGB"):
        return _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImage("damaged", f"Pillow: {error}") from None


def _decode(data: bytes, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        is_short = any(sign in str(error) for sign in _SHORT_OF_MEMORY)
        raise BadImage("memory" if is_short else "damaged", f"OpenCV: {error.err}") from None
    if pixels is None:
        raise BadImage("damaged", "the header is whole but the content cannot be decoded")
    return pixels
