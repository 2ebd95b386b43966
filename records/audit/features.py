"""What features of a network say about images: which are near each other, and which lie far from every class.

Features are whitened by the spread within classes, so that what tells classes apart does not outweigh what tells images
apart (Lee and others, "A simple unified framework for detecting out-of-distribution samples", NeurIPS 2018). The signs
of 64 random projections make a hash: its bits differ in proportion to the angle (Charikar, "Similarity estimation
techniques from rounding algorithms", STOC 2002). Features come in parts, so those of all images need not fit into
memory. Pure.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from convnext_imagenet.records.keyed_random import keyed_rng

# Raise when the same features give other hashes or distances.
FEATURES_VERSION = 1
# Yields the numbers of images, int64 (n,), and their features, float32 (n, width).
FeatureParts = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]
_BITS = 64
_LEAST_VARIANCE = 0.01  # of the largest one: directions with less are noise


@dataclass(frozen=True)
class FeatureSpace:
    """`to_white` (width, width) whitens features; `mean` (width,) is that of all, `classes` (k, width) whitened."""

    mean: np.ndarray
    to_white: np.ndarray
    classes: np.ndarray

    def whiten(self, features: np.ndarray) -> np.ndarray:
        """Return whitened features, float64 (n, width)."""
        return (features - self.mean) @ self.to_white


@dataclass(frozen=True)
class Described:
    """Hash of each image's features, uint64 (images,), and the distance to the nearest class, float64 (images,).

    The distance is NaN for an image without finite features.
    """

    hashes: np.ndarray
    distances: np.ndarray


def describe(labels: np.ndarray, parts: FeatureParts) -> Described:
    """Return hashes and distances of the images with these labels, int (images,). Reads the features twice."""
    described = Described(np.zeros(len(labels), np.uint64), np.full(len(labels), np.nan))
    space = feature_space(labels, parts)
    if space is None:
        return described
    planes = keyed_rng(0, "feature hash").standard_normal((len(space.mean), _BITS))
    squares = (space.classes**2).sum(1)
    for numbers, features in _finite(parts):
        white = space.whiten(features)
        to_classes = squares - 2 * white @ space.classes.T + (white**2).sum(1, keepdims=True)
        nearest = to_classes.argmin(1)
        described.distances[numbers] = np.sqrt(np.maximum(0, to_classes.min(1)))
        signs = (white - space.classes[nearest]) @ planes > 0  # else all images of a class would have near hashes
        described.hashes[numbers] = np.packbits(signs, axis=1).view(np.uint64)[:, 0]
    return described


def feature_space(labels: np.ndarray, parts: FeatureParts) -> FeatureSpace | None:
    """Return the space of the images' features, from class means and the spread around them; None without images."""
    classes = int(labels.max(initial=-1)) + 1
    sums: np.ndarray | None = None
    counts = np.zeros(classes)
    for numbers, features in _finite(parts):
        if sums is None:
            sums, products = np.zeros((classes, features.shape[1])), np.zeros((features.shape[1],) * 2)
        values = features.astype(np.float64)
        np.add.at(sums, labels[numbers], values)
        counts += np.bincount(labels[numbers], minlength=classes)
        products += values.T @ values
    if sums is None:
        return None
    is_there = counts > 0
    means = sums[is_there] / counts[is_there, None]
    spread = (products - (means * counts[is_there, None]).T @ means) / counts.sum()
    variances, directions = np.linalg.eigh(spread)
    least = max(_LEAST_VARIANCE * variances.max(), np.finfo(np.float32).tiny)
    to_white = directions / np.sqrt(np.maximum(variances, least))
    mean = sums.sum(0) / counts.sum()
    return FeatureSpace(mean, to_white, (means - mean) @ to_white)


def outliers(distances: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of distances that are far above the usual ones, and by how much, largest first.

    How much is counted in robust standard deviations of the logarithm: 1.4826 times its median absolute deviation.
    """
    places = np.flatnonzero(np.isfinite(distances))
    logs = np.log(np.maximum(distances[places], np.finfo(np.float32).tiny))
    if not len(places):
        return places, logs
    middle = np.median(logs)
    scale = 1.4826 * np.median(np.abs(logs - middle))
    above = (logs - middle) / scale if scale > 0 else np.zeros(len(logs))
    order = np.lexsort((places, -above))
    order = order[above[order] > limit]
    return places[order], above[order]


def _finite(parts: FeatureParts) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    for numbers, features in parts():
        is_finite = np.isfinite(features).all(1)
        if is_finite.any():
            yield numbers[is_finite], features[is_finite]
