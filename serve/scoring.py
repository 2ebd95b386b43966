"""Samples in, answers out: one batch through the network, the same for Parquet and for the screen."""

from collections.abc import Sequence

import numpy as np

from convnext_imagenet.serve.engine import Engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.overlap import network_outputs
from convnext_imagenet.serve.predictions import Answer, Guess
from convnext_imagenet.serve.ranking import best_classes, probabilities
from convnext_imagenet.serve.sources import Sample


def score_samples(
    engine: Engine,
    samples: Sequence[Sample],
    classes: Sequence[tuple[str, str]],
    topk: int,
    batch_size: int,
    flip: bool = False,
    extras: Sequence[str] = (),
) -> list[Answer | None]:
    """The `topk` best classes of each of up to `batch_size` samples, best first; None for one without pixels.

    `classes` holds (wnid, name) by index. With `flip`, logits and features are means over the image and its mirror
    image. `extras` names what the answers hold besides; "features" needs an engine that gives them. Raises
    ServeError when a logit is not a finite number.
    """
    readable = [place for place, sample in enumerate(samples) if sample.pixels is not None]
    answers: list[Answer | None] = [None] * len(samples)
    if not readable:
        return answers
    outputs = network_outputs(engine, [sample.pixels for sample in samples], batch_size, flip)
    logits_NK = outputs[0][readable]
    _refuse_non_finite(logits_NK, [samples[place].source for place in readable])
    indices_Nk = best_classes(logits_NK, topk)
    scores_Nk = np.take_along_axis(probabilities(logits_NK), indices_Nk, axis=1)
    for number, place in enumerate(readable):
        answers[place] = Answer(
            _guesses(indices_Nk[number].tolist(), scores_Nk[number].tolist(), classes),
            features=outputs[1][place] if "features" in extras else None,
            logits=logits_NK[number] if "logits" in extras else None,
        )
    return answers


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
