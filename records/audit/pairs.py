"""Pairs of images that show the same: equal pixels by their digests, near copies by hashes and small pictures.

With features of a network, pairs of images that have near features are compared, too: these find smaller crops.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from convnext_imagenet.records.audit.confirm import Match, compare, compare_crops
from convnext_imagenet.records.audit.fingerprint import CROPS, UNMARKED, mirrored, window_hashes
from convnext_imagenet.records.audit.neighbours import Hits, near_hashes
from convnext_imagenet.records.audit.parts import Views

# Raise when the same fingerprints give other pairs.
PAIRS_VERSION = 1
RADIUS_BITS = 10
LARGEST_DISTANCE = 0.3
LEAST_CONTRAST = 4.0  # levels of 255: the hash of a flatter picture is noise
EQUAL = "equal"
_MOST_CANDIDATES = 200  # of an image: a set of more is alike by accident, such as drawings on white
_LARGEST_CROP = 0.97  # of a side: a part that is larger counts as the whole
_CROP, _MIRROR = 1, 2
_HITS_AT_A_TIME = 4_000_000
_TASK = 512  # candidates that a thread confirms at a time
_MOST_ALIKE = 20  # candidates of an image by features: these are near for images of one class, too


@dataclass(frozen=True)
class Pair:
    """Two images, by number: `kind` is equal, near, cropped, mirrored or bordered; `distance` is 0 for the same one.

    The second image is the part where the kind is cropped.
    """

    first: int
    second: int
    kind: str
    distance: float


def are_other_labels(labels: Sequence[int | None], pair: Pair) -> bool:
    """Return whether both images of a pair have labels, and other ones; `labels` has one of each image by number."""
    first, second = labels[pair.first], labels[pair.second]
    return first is not None and second is not None and first != second


@dataclass(frozen=True)
class Slack:
    """How much farther apart than pairs two pictures may be: bits of their hashes, and distance."""

    bits: int = 0
    distance: float = 0.0


EXACT = Slack()


@dataclass(frozen=True)
class Found:
    """All pairs in order, how many candidates were compared and left out, and how many images are too flat for that."""

    pairs: list[Pair]
    candidates: int
    left_out: int
    flat: int


@dataclass(frozen=True)
class _Candidates:
    """Views to compare, int64 (n,): the second one may show the window of the first; `is_mirrored` bool (n,)."""

    firsts: np.ndarray
    seconds: np.ndarray
    windows: np.ndarray
    is_mirrored: np.ndarray
    distances: np.ndarray

    def __len__(self) -> int:
        return len(self.firsts)

    def chosen(self, which: np.ndarray) -> "_Candidates":
        return _Candidates(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def find_pairs(
    views: Views,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
    features: np.ndarray | None = None,
    slack: Slack = EXACT,
    among: np.ndarray | None = None,
) -> Found:
    """Return all pairs of the images of `views`, ordered by their numbers.

    `features` are hashes of the images' features, uint64 (images,), 0 for an image without. Only decoded images are
    compared; with `slack` also those whose stored pictures stand for them, and pairs may be that much farther apart.
    Pictures are compared `among` these images only, bool (images,); None means all.
    """
    advance = on_progress or (lambda count: None)
    equal, is_first = _equal_pixels(views)
    contrast = views.table["contrast"].to_numpy(zero_copy_only=False)
    is_flat = ~(contrast >= LEAST_CONTRAST)  # also what could not be decoded
    is_searched = is_first & ~is_flat & (views.is_decoded | (slack != EXACT))
    if among is not None:
        is_searched &= among
    searched = np.flatnonzero(is_searched[views.image])
    hashes, unmarked = _hashes(views, is_searched)
    radius, most = RADIUS_BITS + slack.bits, LARGEST_DISTANCE + slack.distance
    candidates = _search(views, searched, hashes[searched], unmarked[searched], radius)
    kept, left_out = _without_crowds(candidates, views.image)
    compared = len(kept)
    near = _confirm(kept, partial(_confirm_one, views, most), workers, advance)
    if features is not None:
        alike, alike_left_out = _alike(features, np.flatnonzero(is_searched & (features != 0)))
        by_features = _confirm(alike, partial(_confirm_alike, views, most), workers, advance)
        known = {frozenset((pair.first, pair.second)) for pair in near}
        near += [pair for pair in by_features if frozenset((pair.first, pair.second)) not in known]
        compared, left_out = compared + len(alike), left_out + alike_left_out
    pairs = sorted([*equal, *near], key=lambda pair: (pair.first, pair.second))
    return Found(pairs, compared, left_out, int((is_first & is_flat).sum()))


def _alike(features: np.ndarray, searched: np.ndarray) -> tuple[_Candidates, int]:
    """Return pairs of images with near features, once each, and how many were left out."""
    merger = _Merger(np.arange(len(features), dtype=np.int32))
    hashes = features[searched]
    for hits in near_hashes(hashes, hashes, RADIUS_BITS):
        windows = np.zeros(len(hits.entries), np.int64)
        merger.add(searched[hits.entries], searched[hits.queries], windows, False, hits)
    return _without_crowds(merger.result(), np.arange(len(features)), _MOST_ALIKE)


def _equal_pixels(views: Views) -> tuple[list[Pair], np.ndarray]:
    """Return pairs of each image with the first one of the same pixels, and whether an image is such a first one."""
    digests = views.table["pixels"].to_pylist()
    firsts: dict[bytes, int] = {}
    pairs, is_first = [], np.ones(len(digests), bool)
    for number, digest in enumerate(digests):
        if digest is None:
            continue
        if (first := firsts.setdefault(digest, number)) != number:
            pairs.append(Pair(first, number, EQUAL, 0.0))
            is_first[number] = False
    return pairs, is_first


def _hashes(views: Views, is_searched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of each view of the images that are searched, 0 of others."""
    hashes = np.zeros((len(views.image), len(CROPS)), np.uint64)
    unmarked = np.zeros((len(views.image), len(UNMARKED)), np.uint64)
    for numbers, pictures in views.chunks():
        own = is_searched[views.image[numbers]]
        hashes[numbers[own]] = window_hashes(pictures[own], CROPS)
        unmarked[numbers[own]] = window_hashes(pictures[own], UNMARKED)
    return hashes, unmarked


def _search(views: Views, searched: np.ndarray, hashes: np.ndarray, unmarked: np.ndarray, radius: int) -> _Candidates:
    merger = _Merger(views.image)
    for is_mirrored in (False, True):
        queries = mirrored(hashes[:, 0]) if is_mirrored else hashes[:, 0]
        for hits in near_hashes(queries, hashes.ravel(), radius):
            entries, windows = np.divmod(hits.entries, len(CROPS))
            merger.add(searched[entries], searched[hits.queries], windows, is_mirrored, hits)
        for column in range(len(UNMARKED)):
            entries = unmarked[:, column]
            queries = mirrored(entries) if is_mirrored else entries
            for hits in near_hashes(queries, entries, radius):
                windows = np.zeros(len(hits.entries), np.int64)
                merger.add(searched[hits.entries], searched[hits.queries], windows, is_mirrored, hits)
    return merger.result()


class _Merger:
    """Collects hits, and keeps the nearest one of each pair of images, window kind and direction."""

    def __init__(self, image: np.ndarray) -> None:
        self._image = image
        self._parts: list[_Candidates] = []
        self._pending = 0

    def add(self, firsts: np.ndarray, seconds: np.ndarray, windows: np.ndarray, is_mirrored: bool, hits: Hits) -> None:
        """Add hits of views; those of one image with itself, and whole pictures in the other order, are no news."""
        a, b = self._image[firsts], self._image[seconds]
        is_news = (a != b) & ((windows > 0) | (a < b))
        if not is_news.any():
            return
        mirror = np.full(len(firsts), is_mirrored)
        part = _Candidates(firsts, seconds, windows.astype(np.int8), mirror, hits.distances)
        self._parts.append(part.chosen(is_news))
        self._pending += len(self._parts[-1])
        if self._pending > _HITS_AT_A_TIME:
            self._merge()
            self._pending = 0

    def result(self) -> _Candidates:
        """Return the candidates in order."""
        self._merge()
        return self._parts[0]

    def _merge(self) -> None:
        nothing = np.zeros(0, np.int64)
        empty = _Candidates(nothing, nothing, nothing.astype(np.int8), nothing.astype(bool), nothing)
        parts = [empty, *self._parts]
        whole = _Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(empty)))
        a, b = self._image[whole.firsts].astype(np.int64), self._image[whole.seconds].astype(np.int64)
        variety = _MIRROR * whole.is_mirrored + _CROP * (whole.windows > 0)
        order = np.lexsort((whole.seconds, whole.firsts, whole.windows, whole.distances, variety, b, a))
        keys = np.stack([a, b, variety])[:, order]
        is_best = np.ones(len(order), bool)
        is_best[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)
        self._parts = [whole.chosen(order[is_best])]


def _without_crowds(
    candidates: _Candidates, image: np.ndarray, most: int = _MOST_CANDIDATES
) -> tuple[_Candidates, int]:
    """Return the candidates with at most `most` of each first image, the nearest ones, and how many were left out."""
    a = image[candidates.firsts]
    order = np.lexsort((candidates.seconds, candidates.distances, a))
    starts = np.searchsorted(a[order], a[order])
    is_kept = np.arange(len(order)) - starts < most
    return candidates.chosen(np.sort(order[is_kept])), int((~is_kept).sum())


def _confirm(
    candidates: _Candidates, confirm_one: Callable[[_Candidates, int], Pair | None], workers: int,
    on_progress: Callable[[int], None],
) -> list[Pair]:  # fmt: skip
    """Return the confirmed pairs: the best of all candidates of two images."""
    best: dict[tuple[int, int], Pair] = {}
    tasks = [range(first, min(first + _TASK, len(candidates))) for first in range(0, len(candidates), _TASK)]
    with ThreadPoolExecutor(workers) as pool:
        for task, found in zip(
            tasks, pool.map(lambda task: [confirm_one(candidates, number) for number in task], tasks), strict=True
        ):
            for pair in filter(None, found):
                key = (min(pair.first, pair.second), max(pair.first, pair.second))
                if key not in best or pair.distance < best[key].distance:
                    best[key] = pair
            on_progress(len(task))
    return list(best.values())


def _confirm_one(views: Views, most: float, candidates: _Candidates, number: int) -> Pair | None:
    """Return the pair of one candidate, if its pictures show the same: their distance is at most `most`."""
    images = views.table.num_rows
    first, second = int(candidates.firsts[number]), int(candidates.seconds[number])
    is_mirrored = bool(candidates.is_mirrored[number])
    part = _mirrored_if(is_mirrored, views.picture(second))
    match = compare(views.picture(first), part, CROPS[int(candidates.windows[number])])
    if match.distance > most:
        return None
    kind = _kind(is_mirrored, match, is_bordered=(first >= images) != (second >= images))
    return Pair(int(views.image[first]), int(views.image[second]), kind, round(match.distance, 4))


def _confirm_alike(views: Views, most: float, candidates: _Candidates, number: int) -> Pair | None:
    """Return the pair of two images with near features, if one shows the other or a part of it, or its mirror image."""
    first, second = int(candidates.firsts[number]), int(candidates.seconds[number])
    best: Pair | None = None
    for whole, part in ((first, second), (second, first)):
        for is_mirrored in (False, True):
            match = compare_crops(views.picture(whole), _mirrored_if(is_mirrored, views.picture(part)))
            if match.distance <= most and (best is None or match.distance < best.distance):
                best = Pair(whole, part, _kind(is_mirrored, match, is_bordered=False), round(match.distance, 4))
    return best


def _mirrored_if(is_mirrored: bool, picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, ::-1]) if is_mirrored else picture


def _kind(is_mirrored: bool, match: Match, is_bordered: bool) -> str:
    if is_mirrored:
        return "mirrored"
    if is_bordered:
        return "bordered"
    return "cropped" if match.length < _LARGEST_CROP else "near"
