"""RandAugment's operations on the host. Each equals Pillow's, which timm calls, bit by bit, with and without kernels.

Each operation is of one of three kinds: a map of levels, a blend with a degraded image, or an affine resampling.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageEnhance

from convnext_imagenet.model.pixel_ops import PIXEL_OP, Kind, apply_pixel_ops
from convnext_imagenet.train.augment.randaugment import Drawn, Op

Matrix = tuple[float, float, float, float, float, float]
FILL_RGB = (124, 116, 104)  # ImageNet's mean colour
_LEVELS = np.arange(256)


def augment_images(pixels_NHWC: np.ndarray, drawn: Sequence[Drawn]) -> None:
    """Apply each image's operations in order, in place, to contiguous uint8 (N, H, W, 3) RGB pixels."""
    height, width = pixels_NHWC.shape[1:3]
    ops_NK = np.zeros((len(drawn), max(map(len, drawn), default=0)), PIXEL_OP)
    for of_image, ops_K in zip(drawn, ops_NK, strict=True):
        for (op, argument), record in zip(of_image, ops_K, strict=False):
            record["kind"] = _KINDS.get(op, Kind.TABLE)
            record["factor"] = argument
            if op in _PLAIN_TABLES:
                record["table"] = _PLAIN_TABLES[op](argument)
            elif op in _AFFINE_OPS:
                record["matrix"], record["fill"][:3] = affine_matrix(op, argument, height, width), FILL_RGB
    if not apply_pixel_ops(pixels_NHWC, ops_NK):
        for pixels_HWC, of_image in zip(pixels_NHWC, drawn, strict=True):
            pixels_HWC[...] = apply_ops(pixels_HWC, of_image)


def apply_ops(pixels_HWC: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Return uint8 (H, W, 3) RGB pixels after the operations, computed by OpenCV and Pillow; the input is unchanged."""
    for op, argument in drawn:
        if op in _AFFINE_OPS:
            pixels_HWC = _resampled(pixels_HWC, op, argument)
        elif op == Op.COLOR:
            pixels_HWC = np.asarray(ImageEnhance.Color(Image.fromarray(pixels_HWC)).enhance(argument))
        elif op == Op.SHARPNESS:
            pixels_HWC = blend(_smoothed(pixels_HWC), pixels_HWC, argument)
        elif op != Op.NONE:
            pixels_HWC = cv2.LUT(pixels_HWC, level_table(pixels_HWC, op, argument))
    return pixels_HWC


def blend(poorer: np.ndarray, image: np.ndarray, factor: float) -> np.ndarray:
    """Return poorer + factor * (image - poorer) in float32, clipped and rounded down to uint8, like Image.blend."""
    start = poorer.astype(np.float32)
    mixed = start + np.float32(factor) * (image.astype(np.float32) - start)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def level_table(pixels_HWC: np.ndarray, op: Op, argument: float) -> np.ndarray:
    """Return the table, uint8 (1, 256, 3), of an operation that maps levels, for this image."""
    if op == Op.AUTO_CONTRAST:
        return _per_channel(pixels_HWC, _stretched)
    if op == Op.EQUALIZE:
        return _per_channel(pixels_HWC, _equalized)
    if op == Op.CONTRAST:
        mean = int(float(np.asarray(Image.fromarray(pixels_HWC).convert("L")).mean(dtype=np.float64)) + 0.5)
        levels = blend(np.full(256, mean), _LEVELS, argument)
    else:
        levels = _PLAIN_TABLES[op](argument)
    return np.repeat(np.asarray(levels, np.uint8)[None, :, None], 3, 2)


def _per_channel(pixels_HWC: np.ndarray, table: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    counts = [cv2.calcHist([pixels_HWC], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
    return np.stack([table(count.astype(np.int64)) for count in counts], -1)[None].astype(np.uint8)


def _stretched(counts: np.ndarray) -> np.ndarray:
    present = np.flatnonzero(counts)
    low, high = int(present[0]), int(present[-1])
    if high <= low:
        return _LEVELS
    scale = 255.0 / (high - low)
    return np.clip((_LEVELS * scale - low * scale).astype(np.int64), 0, 255)


def _equalized(counts: np.ndarray) -> np.ndarray:
    present = np.flatnonzero(counts)
    step = int(counts.sum() - counts[present[-1]]) // 255
    if len(present) <= 1 or not step:
        return _LEVELS
    below = step // 2 + np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.minimum(below // step, 255)


_PLAIN_TABLES: dict[Op, Callable[[float], np.ndarray]] = {
    Op.INVERT: lambda argument: 255 - _LEVELS,
    Op.POSTERIZE: lambda argument: _LEVELS & ~((1 << (8 - int(argument))) - 1),
    Op.SOLARIZE: lambda argument: np.where(int(argument) > _LEVELS, _LEVELS, 255 - _LEVELS),
    Op.SOLARIZE_ADD: lambda argument: np.where(_LEVELS < 128, np.minimum(255, _LEVELS + int(argument)), _LEVELS),
    Op.BRIGHTNESS: lambda argument: blend(np.zeros(256), _LEVELS, argument),
}


def _smoothed(pixels_HWC: np.ndarray) -> np.ndarray:
    """Return Pillow's SMOOTH filter: 1 1 1 / 1 5 1 / 1 1 1, divided by 13, rounded; the border stays."""
    smooth = pixels_HWC.copy()
    if min(pixels_HWC.shape[:2]) > 2:
        sums = cv2.boxFilter(pixels_HWC, cv2.CV_32S, (3, 3), normalize=False) + 4 * pixels_HWC.astype(np.int32)
        smooth[1:-1, 1:-1] = ((2 * sums + 13) // 26)[1:-1, 1:-1]
    return smooth


def affine_matrix(op: Op, argument: float, height: int, width: int) -> Matrix:
    """Return (a, b, c, d, e, f): the pixel at x, y comes from a x + b y + c, d x + e y + f (Pillow's AFFINE)."""
    if op == Op.SHEAR_X:
        return 1.0, argument, 0.0, 0.0, 1.0, 0.0
    if op == Op.SHEAR_Y:
        return 1.0, 0.0, 0.0, argument, 1.0, 0.0
    if op == Op.TRANSLATE_X:
        return 1.0, 0.0, argument * width, 0.0, 1.0, 0.0
    if op == Op.TRANSLATE_Y:
        return 1.0, 0.0, 0.0, 0.0, 1.0, argument * height
    if op != Op.ROTATE:
        return 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    cosine, sine = math.cos(math.radians(argument)), math.sin(math.radians(-argument))
    x, y = width / 2, height / 2
    return cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y


def _resampled(pixels_HWC: np.ndarray, op: Op, argument: float) -> np.ndarray:
    height, width, _ = pixels_HWC.shape
    matrix, affine, bicubic = (
        affine_matrix(op, argument, height, width),
        Image.Transform.AFFINE,
        Image.Resampling.BICUBIC,
    )
    return np.asarray(
        Image.fromarray(pixels_HWC).transform((width, height), affine, matrix, bicubic, fillcolor=FILL_RGB)
    )


_AFFINE_OPS = frozenset({Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y})
_KINDS = dict.fromkeys(_AFFINE_OPS, Kind.AFFINE) | {
    Op.NONE: Kind.NONE,
    Op.AUTO_CONTRAST: Kind.STRETCH,
    Op.EQUALIZE: Kind.EQUALIZE,
    Op.CONTRAST: Kind.CONTRAST,
    Op.COLOR: Kind.COLOR,
    Op.SHARPNESS: Kind.SHARPNESS,
}
