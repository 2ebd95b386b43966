"""A box of a JPEG without the pixels around it, as a full decode would give it, in about two thirds of the time.

The decoder is the libjpeg-turbo that Pillow brings along. Where it or the kernel that drives it cannot be had, and for
whatever is unusual about a file, the answer is None and the caller decodes the whole image. Nothing is guessed: before
its first use the decoder has to agree with OpenCV on a picture.
"""

import ctypes
import logging
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import PIL._imaging

from convnext_imagenet.model.kernels.build import kernels_library
from convnext_imagenet.model.resize import Box

_NAMES = (
    "jpeg_std_error",
    "jpeg_CreateDecompress",
    "jpeg_mem_src",
    "jpeg_read_header",
    "jpeg_start_decompress",
    "jpeg_crop_scanline",
    "jpeg_skip_scanlines",
    "jpeg_read_scanlines",
    "jpeg_destroy_decompress",
)
_SPARE_COLUMNS = 8 + 8 + 31  # a margin on each side, and what is before the decoder's next block

log = logging.getLogger(__name__)

Decode = Callable[[bytes, int, int, Box], np.ndarray | None]


def decode_jpeg_box(data: bytes, height: int, width: int, box: Box) -> np.ndarray | None:
    """Return the box (top, left, height, width) of an RGB or gray JPEG of `height` x `width` px, uint8 (h, w, 3) RGB.

    None means that the whole image has to be decoded, if it can be: there is no decoder for boxes on this machine, the
    file has other sides or other colours, or it is damaged. Damage beside or below the box goes unnoticed. The rows of
    the result may be strided. Raises ValueError for a box outside of the image.
    """
    top, left, box_height, box_width = box
    if not (0 <= top < top + box_height <= height and 0 <= left < left + box_width <= width):
        raise ValueError(f"box {box} is not inside an image of {height} x {width} px")
    decode = _decoder()
    return None if decode is None else decode(data, height, width, box)


@cache
def _decoder() -> Decode | None:
    decode = _bound()
    if decode is None:
        return None
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)[21:58, 19:97]
    found = decode(data, 72, 120, (21, 19, 37, 78))
    if found is None or not np.array_equal(found, expected):
        log.info("JPEGs are decoded as a whole: Pillow's decoder differs from OpenCV's")
        return None
    return decode


def _bound() -> Decode | None:
    """The kernel with the addresses of Pillow's decoder; None where one of the two cannot be had."""
    library = kernels_library()
    if library is None:
        return None
    pillow = ctypes.CDLL(PIL._imaging.__file__)
    try:
        addresses = [ctypes.cast(getattr(pillow, name), ctypes.c_void_p).value for name in _NAMES]
    except AttributeError as error:
        log.info("JPEGs are decoded as a whole: Pillow has no libjpeg-turbo at hand (%s)", error)
        return None
    table = (ctypes.c_void_p * len(_NAMES))(*addresses)
    kernel = ctypes.CDLL(str(library)).convnext_jpeg_box
    pointer, number, count = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    kernel.argtypes = [pointer, ctypes.c_char_p, count, *[number] * 6, pointer, count]
    kernel.restype = number

    def decode(data: bytes, height: int, width: int, box: Box) -> np.ndarray | None:
        rows = np.empty((box[2], min(width, box[3] + _SPARE_COLUMNS), 3), np.uint8)
        before = kernel(table, data, len(data), height, width, *box, rows.ctypes.data, rows.strides[0])
        return None if before < 0 else rows[:, before : before + box[3]]

    return decode
