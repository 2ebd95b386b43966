"""Decodes and resizes only a box of each JPEG: many files in one call, without the interpreter lock.

The pixels are those of a full decode, bit for bit. Blocks beside the box are not turned into pixels, and lines below it
are not read, which saves about a third of the time. The decoder is the libjpeg-turbo that Pillow has loaded (DECISIONS,
2026-11-24). Without it, without the kernel that drives it, and for unusual files, the caller decodes the whole image.
Before its first use the decoder must agree with OpenCV on a test picture.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import PIL._imaging

from convnext_imagenet.model.kernels.build import kernels_library
from convnext_imagenet.model.resize import Box, Interpolation, Weights, check_box, is_vertical_first, pass_weights

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

log = logging.getLogger(__name__)


class Crop(NamedTuple):
    """The part to cut out of a JPEG of `height` x `width` px; `box` is (top, left, height, width) in pixels."""

    data: bytes
    height: int
    width: int
    box: Box
    interpolation: Interpolation = "bicubic"
    is_mirrored: bool = False


class _CropJob(ctypes.Structure):
    """The fields, and their order, equal those of `CropJob` in crops.cpp."""

    _fields_ = [
        ("data", ctypes.c_char_p),
        ("bytes", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("image_height", "image_width", "top", "left", "height", "width")),
        *((name, ctypes.c_void_p) for name in ("first_x", "weights_x", "first_y", "weights_y")),
        *((name, ctypes.c_int32) for name in ("taps_x", "taps_y", "is_vertical_first", "is_mirrored")),
        ("out", ctypes.c_void_p),
        ("is_done", ctypes.c_int32),
    ]


CropKernel = Callable[[Sequence[Crop], np.ndarray], list[bool]]


def crop_jpegs(crops: Sequence[Crop], out_NHWC: np.ndarray) -> list[bool]:
    """Write the crops of RGB or gray JPEGs to `out_NHWC`, contiguous uint8 (N, H, W, 3); return which are done.

    The pixels are those of `resize` on a full decode. False means that the caller must decode the whole image: this
    machine has no decoder for boxes, the file has another size or other colours, or it is damaged. Damage beside or
    below a box is not noticed. Raises ValueError for a box that is not inside its image.
    """
    for crop in crops:
        check_box(crop.box, crop.height, crop.width)
    crop_all = _decoder()
    return [False] * len(crops) if crop_all is None else crop_all(crops, out_NHWC)


@cache
def _decoder() -> CropKernel | None:
    crop_all = _bind_kernel()
    if crop_all is None:
        return None
    # 72 x 120 px in squares of 12, so that edges cross the 8 x 8 blocks of a JPEG; the box is not aligned with them
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)[None, 21:58, 19:97]
    decoded = np.zeros_like(expected)
    if crop_all([Crop(data, 72, 120, (21, 19, 37, 78))], decoded) != [True] or not np.array_equal(decoded, expected):
        log.info("whole JPEGs are decoded, not only crops: Pillow's decoder gives other pixels than OpenCV's")
        return None
    return crop_all


def _bind_kernel() -> CropKernel | None:
    """Return the kernel bound to the addresses of Pillow's decoder; None if one of the two is missing."""
    library = kernels_library()
    if library is None:
        return None
    pillow = ctypes.CDLL(PIL._imaging.__file__)
    try:
        addresses = [ctypes.cast(getattr(pillow, name), ctypes.c_void_p).value for name in _NAMES]
    except AttributeError as error:
        log.info("whole JPEGs are decoded, not only crops: Pillow has loaded no libjpeg-turbo (%s)", error)
        return None
    table = (ctypes.c_void_p * len(_NAMES))(*addresses)
    kernel = ctypes.CDLL(str(library)).convnext_crops
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    kernel.restype = None

    def crop_all(crops: Sequence[Crop], out_NHWC: np.ndarray) -> list[bool]:
        size = out_NHWC.shape[1], out_NHWC.shape[2]
        weights = [_weights(crop, size) for crop in crops]  # kept alive here: the jobs hold only addresses
        jobs = (_CropJob * len(crops))(*map(_fill_job, crops, weights, out_NHWC, [size] * len(crops)))
        kernel(table, jobs, len(crops), *size)
        return [bool(job.is_done) for job in jobs]

    return crop_all


def _weights(crop: Crop, size: tuple[int, int]) -> tuple[Weights, Weights]:
    _, _, height, width = crop.box
    return pass_weights(width, size[1], crop.interpolation), pass_weights(height, size[0], crop.interpolation)


def _fill_job(crop: Crop, weights: tuple[Weights, Weights], out_HWC: np.ndarray, size: tuple[int, int]) -> _CropJob:
    x, y = weights
    image = crop.data, len(crop.data), crop.height, crop.width
    pointers = x.first.ctypes.data, x.weights.ctypes.data, y.first.ctypes.data, y.weights.ctypes.data
    order = is_vertical_first(crop.box[2:], size)
    return _CropJob(*image, *crop.box, *pointers, x.taps, y.taps, order, crop.is_mirrored, out_HWC.ctypes.data, 0)
