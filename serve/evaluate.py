"""Exact accuracy over a split of RECORDS: every row counted once, summed, divided once, compared with the manifest.

Training calls `evaluate` on its live network after each epoch and `convnext-serve eval` on a frozen one, so that
both print the same number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mindspore import nn

from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels
from convnext_imagenet.records.images import BadImage, decode_rgb
from convnext_imagenet.records.reading import Split
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.overlap import batches, map_ahead, padded_logits
from convnext_imagenet.serve.ranking import true_label_ranks

_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Accuracy:
    """Counts over `rows` images. `guesses` is how many classes a top-5 answer names: 5, or all when there are fewer."""

    rows: int
    top1_correct: int
    top5_correct: int
    guesses: int = 5

    @property
    def top1(self) -> float:
        """The fraction of rows whose best class is the true one."""
        return self.top1_correct / self.rows

    @property
    def top5(self) -> float:
        """The fraction of rows whose true class is among the `guesses` best ones."""
        return self.top5_correct / self.rows


@dataclass(frozen=True)
class _Labelled:
    pixels: np.ndarray
    label: int
    sample_id: int


def evaluate(
    classifier: nn.Cell,
    transform: EvalTransform,
    split: Split,
    batch_size: int,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
) -> Accuracy:
    """The accuracy of `classifier` (uint8 pixels (N, S, S, 3) -> logits (N, K)) over every row of `split`.

    The last batch is padded to `batch_size` (or all batches to the rows of the split, when those are fewer) and
    the padding is not counted. `workers` threads decode and resize while the network computes. `on_progress`
    gets the number of rows of each batch. The network is left in evaluation mode.

    Raises ServeError for a row that cannot be decoded, RuntimeError when what was counted is not what the manifest
    says, which is a bug and never an accuracy.
    """
    classifier.set_train(False)
    size = min(batch_size, split.rows)
    prepare = partial(_prepare, transform=transform, split=split)
    samples = map_ahead(prepare, split.read(range(split.rows)), workers, _BATCHES_AHEAD * size)
    ranks: list[np.ndarray] = []
    labels: list[int] = []
    sample_ids: list[int] = []
    classes = 0
    for batch in batches(samples, size):
        batch_labels = [sample.label for sample in batch]
        logits_NK = padded_logits(classifier, [sample.pixels for sample in batch], size)
        classes = logits_NK.shape[1]
        ranks.append(true_label_ranks(logits_NK, np.array(batch_labels)))
        labels += batch_labels
        sample_ids += [sample.sample_id for sample in batch]
        if on_progress:
            on_progress(len(batch))
    _compare_with_manifest(split, labels, sample_ids)
    return _count(np.concatenate(ranks), guesses=min(5, classes))


def _prepare(row: dict[str, Any], transform: EvalTransform, split: Split) -> _Labelled:
    try:
        pixels = evaluation_pixels(decode_rgb(row["image"]), transform)
    except BadImage as error:
        raise ServeError(
            f"{split.folder}: the image with sample_id {row['sample_id']} cannot be decoded ({error}); "
            f"run `convnext-records verify {split.folder.parent}`"
        ) from None
    return _Labelled(pixels, row["label"], row["sample_id"])


def _compare_with_manifest(split: Split, labels: list[int], sample_ids: list[int]) -> None:
    per_class = np.bincount(labels, minlength=len(split.entry.rows_per_class))
    if len(set(sample_ids)) != split.rows or tuple(per_class.tolist()) != split.entry.rows_per_class:
        raise RuntimeError(
            f"split {split.name!r}: evaluated {len(labels)} rows ({len(set(sample_ids))} distinct), the manifest "
            f"says {split.rows}, or their labels differ from its counts per class"
        )


def _count(ranks_N: np.ndarray, guesses: int) -> Accuracy:
    return Accuracy(
        rows=len(ranks_N),
        top1_correct=int((ranks_N == 0).sum()),
        top5_correct=int((ranks_N < guesses).sum()),
        guesses=guesses,
    )
