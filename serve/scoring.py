"""Samples -> scores: one batch through the network, ranked. PREDICTIONS and the screen use the same function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convnext_imagenet.serve.batching import network_outputs
from convnext_imagenet.serve.calibration import Calibration
from convnext_imagenet.serve.engine import Engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.measures import MEASURES
from convnext_imagenet.serve.samples import Sample

Guess = dict[str, Any]  # class_index, wnid, name, score: a value of the column `topk` of PREDICTIONS


@dataclass(frozen=True)
class ScoredSample:
    """The network's answer for one input: the best classes and, on request, features (C,) and logits (K,), float32.

    `measures` are further columns: those of MEASURES, and what a calibration adds. `loss` is the cross entropy with the
    input's label, on request; None without a label.
    """

    guesses: list[Guess] | None
    features: np.ndarray | None = None
    logits: np.ndarray | None = None
    loss: float | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)
    unit_features: np.ndarray | None = None


def score_samples(
    engine: Engine,
    samples: Sequence[Sample],
    classes: Sequence[tuple[str, str]],
    topk: int,
    batch_size: int,
    flip: bool = False,
    extras: Sequence[str] = (),
    calibration: Calibration | None = None,
) -> list[ScoredSample | None]:
    """Return the `topk` best classes of up to `batch_size` samples, best first; None for a sample without pixels.

    `classes` holds (wnid, name) by index. With `flip`, logits and features are means over the image and its mirror
    image. `extras` adds "features", "unit_features" (of length 1), "logits", "loss" or MEASURES to a result; features
    need an engine that returns them. Without classes the engine returns features only, and there are no guesses. Raises
    ServeError when an output is NaN or infinite.
    """
    readable = [position for position, sample in enumerate(samples) if sample.pixels is not None]
    scored: list[ScoredSample | None] = [None] * len(samples)
    if not readable:
        return scored
    outputs = network_outputs(engine, [sample.pixels for sample in samples], batch_size, flip)
    if not classes:
        _refuse_non_finite(outputs[0][readable], [samples[position].source for position in readable])
        for position in readable:
            scored[position] = ScoredSample(None, **_features(outputs[0][position], extras))
        return scored
    logits_NK = outputs[0][readable]
    _refuse_non_finite(logits_NK, [samples[position].source for position in readable])
    indices_Nk = best_classes(logits_NK, topk)
    probabilities_NK = probabilities(logits_NK)
    scores_Nk = np.take_along_axis(probabilities_NK, indices_Nk, axis=1)
    columns: dict[str, Any] = {
        name: MEASURES[name](logits_NK).astype(np.float32) for name in extras if name in MEASURES
    }
    if calibration:
        columns["calibrated_score"] = calibration.calibrated(scores_Nk[:, 0]).astype(np.float32)
        columns["conformal_set"] = calibration.sets(probabilities_NK)
    for row, position in enumerate(readable):
        scored[position] = ScoredSample(
            _guesses(indices_Nk[row].tolist(), scores_Nk[row].tolist(), classes),
            **(_features(outputs[1][position], extras) if len(outputs) > 1 else {}),
            logits=logits_NK[row] if "logits" in extras else None,
            loss=_loss(logits_NK[row], samples[position].label) if "loss" in extras else None,
            measures={name: values[row] for name, values in columns.items()},
        )
    return scored


def _features(features_C: np.ndarray, extras: Sequence[str]) -> dict[str, Any]:
    """Return the features that `extras` asks for; those of length 1 are divided in float64."""
    found = {"features": features_C} if "features" in extras else {}
    if "unit_features" in extras:
        exact_C = features_C.astype(np.float64)
        length = float(np.linalg.norm(exact_C))
        found["unit_features"] = (exact_C / max(length, 1e-12)).astype(np.float32)
    return found


def _loss(logits_K: np.ndarray, label: int | None) -> float | None:
    return None if label is None else float(cross_entropies(logits_K[None], np.array([label]))[0])


def best_classes(logits_NK: np.ndarray, k: int) -> np.ndarray:
    """Return the indices (N, k) of the k greatest logits of each row, best first; the lower index wins a tie."""
    return np.argsort(-logits_NK, axis=1, kind="stable")[:, :k]


def probabilities(logits_NK: np.ndarray) -> np.ndarray:
    """Return the softmax of each row as float32 (N, K), computed in float64."""
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True)
    exponentials_NK = np.exp(shifted_NK)
    return (exponentials_NK / exponentials_NK.sum(axis=1, keepdims=True)).astype(np.float32)


def cross_entropies(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the cross entropy of each row with its true class, float64 (N,), in nats; a row's value is its own.

    -ln(softmax(logits)[label]), without label smoothing. A row with a NaN or a positive infinity has NaN.
    """
    exact_NK = np.ascontiguousarray(logits_NK, np.float64)  # rows in C order: each is summed as if it were alone
    true_N = np.take_along_axis(exact_NK, labels_N[:, None], axis=1)[:, 0]
    with np.errstate(invalid="ignore"):
        best_N = exact_NK.max(axis=1)
        return np.log(np.exp(exact_NK - best_N[:, None]).sum(axis=1)) + (best_N - true_N)


def true_label_ranks(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the rank 0..K-1 of each row's true class among its logits, int64 (N,); 0 is the best.

    Ahead of it are the classes with a greater logit, and those with an equal logit and a lower index, as in
    `best_classes`. A row with a NaN has rank K, so it is never correct. Raises ValueError for a label outside 0..K-1.
    """
    classes = logits_NK.shape[1]
    if labels_N.size and not 0 <= labels_N.min() <= labels_N.max() < classes:
        raise ValueError(
            f"labels are {labels_N.min()}..{labels_N.max()}, the classes of the network are 0..{classes - 1}"
        )
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
            f"{sources[int(bad_N.argmax())]}: the network returns NaN or infinity; "
            f"the checkpoint is damaged or its training diverged: use another checkpoint"
        )
