"""Whether two small pictures show the same image: aligned to each other, then compared, once without each corner.

A hash only proposes. Here one picture is moved onto the other (Evangelidis and Psarakis, "Parametric image alignment
using enhanced correlation coefficient maximization", PAMI 2008), so a crop is compared with the part that it shows.
"""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from convnext_imagenet.records.audit.fingerprint import Window
from convnext_imagenet.records.small_picture import SMALL_PX

_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
_CORNER = (0.25, 0.5)  # of height and width: where a mark may be
_MOST_TURNED = 0.03  # of the side: a copy is moved and scaled, but not turned or sheared
_SCALES = (0.84, 1.06)
_DEEP_SCALES = (0.45, 1.06)
_DEEP_CROPS = (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.54)  # of a side
_ECC_BLUR_PX = 3
_EVERYWHERE = np.full((SMALL_PX, SMALL_PX), 255, np.uint8)
_DETAIL_SIGMA_PX = 1.5
_WORTH_ALIGNING = 0.4  # correlation before the alignment: crops of 90 % have 0.6 and more
_ALIGNED = 0.02  # distance that an alignment need not improve


@dataclass(frozen=True)
class Match:
    """How alike two pictures are: correlations of the gray levels, and of the details alone, -1 to 1.

    `length` is the part of the side of the first picture that the second one shows, about 1 unless it is a crop.
    """

    correlation: float
    details: float
    length: float

    @property
    def distance(self) -> float:
        """Return 0 for the same picture, 1 and more for unlike ones."""
        return 1 - min(self.correlation, self.details)


def compare(whole: np.ndarray, part: np.ndarray, window: Window) -> Match:
    """Return how alike the picture `part` and the window of `whole` are, both uint8 (48, 48)."""
    return _aligned(whole.astype(np.float32), part.astype(np.float32), _initial_warp(window), _SCALES)


def compare_crops(whole: np.ndarray, part: np.ndarray) -> Match:
    """Return how alike the picture `part` and the most alike part of `whole` are, both uint8 (48, 48).

    The part is searched from the whole down to half of each side, so this takes as long as a dozen of `compare`.
    """
    window = max((_best_window(whole, part, length) for length in _DEEP_CROPS), key=lambda found: found[0])[1]
    return _aligned(whole.astype(np.float32), part.astype(np.float32), _initial_warp(window), _DEEP_SCALES)


def _best_window(whole: np.ndarray, part: np.ndarray, length: float) -> tuple[float, Window]:
    """Return the correlation and the place of the square of this length that is most like `part`."""
    side = round(length * SMALL_PX)
    small = cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA)
    _, correlation, _, (left, top) = cv2.minMaxLoc(cv2.matchTemplate(whole, small, cv2.TM_CCOEFF_NORMED))
    return correlation, Window(top / SMALL_PX, left / SMALL_PX, side / SMALL_PX, side / SMALL_PX)


def _aligned(first: np.ndarray, second: np.ndarray, start: np.ndarray, scales: tuple[float, float]) -> Match:
    given = _match(first, second, start)
    if given.correlation < _WORTH_ALIGNING or given.distance < _ALIGNED:
        return given
    try:
        _, warp = cv2.findTransformECC(
            second, first, start.copy(), cv2.MOTION_AFFINE, _CRITERIA, _EVERYWHERE, _ECC_BLUR_PX
        )
    except cv2.error:  # it did not converge: pictures without contrast, or unlike ones
        return given
    moved = _match(first, second, warp) if _is_plausible(warp, scales) else given
    return min(given, moved, key=lambda match: match.distance)


def _match(first: np.ndarray, second: np.ndarray, warp: np.ndarray) -> Match:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(first, warp, (SMALL_PX, SMALL_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    fine = (_details(moved), _details(second))
    length = math.sqrt(abs(float(np.linalg.det(warp[:, :2]))))
    matches = (Match(_correlation(moved, second, kept), _correlation(*fine, kept), length) for kept in _masks())
    return min(matches, key=lambda match: match.distance)


def _initial_warp(window: Window) -> np.ndarray:
    shift = [(start + length / 2) * SMALL_PX - length * SMALL_PX / 2 + (length - 1) / 2
             for start, length in ((window.left, window.width), (window.top, window.height))]  # fmt: skip
    return np.array([[window.width, 0, shift[0]], [0, window.height, shift[1]]], np.float32)


@cache
def _masks() -> tuple[np.ndarray, ...]:
    """Return which pixels to compare, bool (48, 48): all, then all but those of each corner."""
    height, width = (round(SMALL_PX * part) for part in _CORNER)
    masks = [np.ones((SMALL_PX, SMALL_PX), bool)]
    for rows in (slice(0, height), slice(SMALL_PX - height, SMALL_PX)):
        for columns in (slice(0, width), slice(SMALL_PX - width, SMALL_PX)):
            mask = np.ones((SMALL_PX, SMALL_PX), bool)
            mask[rows, columns] = False
            masks.append(mask)
    return tuple(masks)


def _is_plausible(warp: np.ndarray, scales: tuple[float, float]) -> bool:
    (across, shear, _), (turn, down, _) = warp.tolist()
    is_upright = max(abs(shear), abs(turn), abs(across - down)) < _MOST_TURNED
    return is_upright and all(scales[0] < scale < scales[1] for scale in (across, down))


def _details(picture: np.ndarray) -> np.ndarray:
    return picture - cv2.GaussianBlur(picture, (0, 0), _DETAIL_SIGMA_PX)


def _correlation(first: np.ndarray, second: np.ndarray, kept: np.ndarray) -> float:
    a, b = first[kept] - first[kept].mean(), second[kept] - second[kept].mean()
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
