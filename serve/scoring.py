"""Samples in, scores out: one batch through the network, ranked; the same for Parquet and for the screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convnext_imagenet.serve.batching import network_outputs
from convnext_imagenet.serve.engine import Engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.samples import Sample

Guess = dict[str, Any]  # class_index, wnid, name, score: a value of the column `topk` of PREDICTIONS


@dataclass(frozen=True)
class ScoredSample:
    """What the network says of one input: the best classes, and where asked for its features (C,) and logits (K,)."""

    guesses: list[Guess]
    features: np.ndarray | None = None
    logits: np.ndarray | None = None


def score_samples(
    engine: Engine,
    samples: Sequence[Sample],
    classes: Sequence[tuple[str, str]],
    topk: int,
    batch_size: int,
    flip: bool = False,
    extras: Sequence[str] = (),
) -> list[ScoredSample | None]:
    """Return the `topk` best classes of each of up to `batch_size` samples, best first; None for one without pixels.

    `classes` holds (wnid, name) by index. With `flip`, logits and features are means over the image and its mirror
    image. `extras` names what a result holds besides; "features" needs an engine that gives them. Raises ServeError
    when a logit is not a finite number.
    """
    readable = [position for position, sample in enumerate(samples) if sample.pixels is not None]
    scored: list[ScoredSample | None] = [None] * len(samples)
    if not readable:
        return scored
    outputs = network_outputs(engine, [sample.pixels for sample in samples], batch_size, flip)
    logits_NK = outputs[0][readable]
    _refuse_non_finite(logits_NK, [samples[position].source for position in readable])
    indices_Nk = best_classes(logits_NK, topk)
    scores_Nk = np.take_along_axis(probabilities(logits_NK), indices_Nk, axis=1)
    for row, position in enumerate(readable):
        scored[position] = ScoredSample(
            _guesses(indices_Nk[row].tolist(), scores_Nk[row].tolist(), classes),
            features=outputs[1][position] if "features" in extras else None,
            logits=logits_NK[row] if "logits" in extras else None,
        )
    return scored


def best_classes(logits_NK: np.ndarray, k: int) -> np.ndarray:
    """Return the indices (N, k) of the k greatest logits of each row, best first, among equals the lower index."""
    return np.argsort(-logits_NK, axis=1, kind="stable")[:, :k]


def probabilities(logits_NK: np.ndarray) -> np.ndarray:
    """Return the softmax of each row, computed in float64, as float32 (N, K)."""
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True)
    exponentials_NK = np.exp(shifted_NK)
    return (exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True)).astype(np.float32)


def true_label_ranks(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the rank 0..K-1 of each row's true class among its logits, int64 (N,); 0 is the best.

    Classes with a greater logit come before, and so do those with an equal logit and a lower index, as in
    `best_classes`. A row that holds a NaN has rank K: it is never correct.
    """
    classes = logits_NK.shape[1]
    if labels_N.size and not 0 <= labels_N.min() <= labels_N.max() < classes:
        raise ValueError(f"labels {labels_N.min()}..{labels_N.max()}, the network knows 0..{classes - 1}")
    true_N1 = np.take_along_axis(logits_NK, labels_N[:, None], axis=1)
    before_NK = np.arange(classes) < labels_N[:, None]
    ahead_NK = (logits_NK > true_N1) | ((logits_NK == true_N1) & before_NK)
    ranks_N = ahead_NK.sum(axis=1, dtype=np.int64)
    return np.where(np.isnan(logits_NK).any(axis=1), classes, ranks_N)


def _guesses(indices: Sequence[int], scores: Sequence[float], classes: Sequence[tuple[str, str]]) -> list[Guess]:
    return [
        {"class_index": index, "wnid": classes[index][0], "name": classes[index][1], "score": score}
        for index, score in zip(indices, scores, strict=True)
    ]


def _refuse_non_finite(logits_NK: np.ndarray, sources: Sequence[str]) -> None:
    bad_N = ~np.isfinite(logits_NK).all(axis=1)
    if bad_N.any():
        raise ServeError(
            f"{sources[int(bad_N.argmax())]}: the network answers with NaN or infinity; "
            f"the checkpoint is damaged or its training diverged: use another one"
        )
