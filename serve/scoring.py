"""Samples in, guesses out: one batch through the network, the same for Parquet and for the screen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.overlap import padded_logits
from convnext_imagenet.serve.predictions import Guess
from convnext_imagenet.serve.ranking import best_classes, probabilities
from convnext_imagenet.serve.sources import Sample


def score_samples(
    classifier: Any, samples: Sequence[Sample], classes: Sequence[tuple[str, str]], topk: int, batch_size: int
) -> list[list[Guess] | None]:
    """The `topk` best classes of each of up to `batch_size` samples, best first; None for one without pixels.

    `classes` holds (wnid, name) by index. Raises ServeError when a logit is not a finite number.
    """
    readable = [place for place, sample in enumerate(samples) if sample.pixels is not None]
    guesses: list[list[Guess] | None] = [None] * len(samples)
    if not readable:
        return guesses
    logits_NK = padded_logits(classifier, [sample.pixels for sample in samples], batch_size)[readable]
    _refuse_non_finite(logits_NK, [samples[place].source for place in readable])
    indices_Nk = best_classes(logits_NK, topk)
    scores_Nk = np.take_along_axis(probabilities(logits_NK), indices_Nk, axis=1)
    for place, indices, scores in zip(readable, indices_Nk.tolist(), scores_Nk.tolist(), strict=True):
        guesses[place] = _guesses(indices, scores, classes)
    return guesses


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
