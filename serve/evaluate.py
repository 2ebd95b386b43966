"""Exact accuracy and loss over a split of RECORDS: every row once, summed, divided once, compared with the manifest.

Ranks take whole batches, the same ones that a single process would make, so the number of ranks changes no logit. The
losses of the rows are collected by sample id, bit for bit, and summed as if exactly, so it changes no bit of the mean.
Training calls `evaluate` after each epoch and `convnext-serve eval` on a frozen network, so both print the same number.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mindspore import nn

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks
from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels
from convnext_imagenet.records.images import BadImage, decode_rgb
from convnext_imagenet.records.reader import Split
from convnext_imagenet.serve.batching import batches, padded_logits
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.prefetch import map_ahead
from convnext_imagenet.serve.scoring import cross_entropies, true_label_ranks

_BATCHES_AHEAD = 2  # one waits ready while the threads decode the next


@dataclass(frozen=True)
class Accuracy:
    """Counts over `rows` images. `guesses` is the k of "top-5": 5, or the number of classes if that is lower.

    `loss` is the mean cross entropy with the true label, in nats, without label smoothing; NaN or infinite if a logit
    is.
    """

    rows: int
    top1_correct: int
    top5_correct: int
    loss: float
    guesses: int = 5

    @property
    def top1(self) -> float:
        """Return the fraction of rows whose best class is the true one."""
        return self.top1_correct / self.rows

    @property
    def top5(self) -> float:
        """Return the fraction of rows whose true class is among the `guesses` best ones."""
        return self.top5_correct / self.rows


@dataclass(frozen=True)
class _Labelled:
    pixels: np.ndarray
    label: int
    sample_id: int


@dataclass(frozen=True)
class _CountedRows:
    """The rows that one process has evaluated: rank of the true class, cross entropy, label and sample id of each."""

    ranks: np.ndarray
    losses: np.ndarray
    labels: np.ndarray
    sample_ids: np.ndarray
    is_stopped: bool


def evaluate(
    classifier: nn.Cell,
    transform: EvalTransform,
    split: Split,
    batch_size: int,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
    ranks: Ranks = SINGLE,
    is_stopped: Callable[[], bool] = lambda: False,
    flip: bool = False,
    indices: Sequence[int] | None = None,
    classes: int | None = None,
) -> Accuracy:
    """Return accuracy and loss of `classifier` (uint8 pixels (N, S, S, 3) -> logits (N, K)) over every row of `split`.

    A batch holds `batch_size` rows, or all rows of a smaller split. The last batch is padded; padding is not counted.
    `workers` threads decode and resize while the network computes. `on_progress` gets the number of rows of each batch
    of this rank; `is_stopped` is asked before each batch. With `flip`, logits are means over the image and its mirror
    image. `indices` are the network's class indices by those of the records, and
    `classes` is how many it has, if they differ. The network is left in
    evaluation mode.

    Raises ServeError for a row that cannot be decoded; Interrupted, on all ranks, when one was stopped; RuntimeError
    when the counts differ from the manifest, which is a bug.
    """
    classifier.set_train(False)
    size = min(batch_size, split.rows)
    share = ranks.own.share(-(-split.rows // size))
    rows = range(share.start * size, min(share.stop * size, split.rows))
    samples = map_ahead(
        partial(_prepare, transform=transform, split=split), split.read(rows), workers, _BATCHES_AHEAD * size
    )
    index_of = np.arange(len(split.entry.rows_per_class)) if indices is None else np.array(indices)
    score = partial(padded_logits, classifier, batch_size=size, flip=flip)
    with contextlib.closing(samples):
        counted = _count(score, batches(samples, size), index_of, on_progress or (lambda count: None), is_stopped)
    if ranks.sum(np.array(counted.is_stopped)):
        raise Interrupted("stopped while evaluating; run the same command again")
    guesses = min(5, len(split.entry.rows_per_class) if classes is None else classes)
    is_stored = _compare_with_manifest(split, counted, ranks)
    top1, top5 = ranks.sum(np.array([(counted.ranks == 0).sum(), (counted.ranks < guesses).sum()])).tolist()
    return Accuracy(split.rows, top1, top5, mean_loss(_all_losses(counted, is_stored, ranks)), guesses)


def mean_loss(losses: np.ndarray) -> float:
    """Return the mean of float64 losses; their sum is rounded once, so their order changes no bit."""
    return math.fsum(losses.tolist()) / len(losses)


def _count(
    score: Callable[[list[np.ndarray]], np.ndarray],
    samples: Iterable[list[_Labelled]],
    index_of: np.ndarray,
    on_progress: Callable[[int], None],
    is_stopped: Callable[[], bool],
) -> _CountedRows:
    true_ranks, losses, labels, sample_ids, stopped = [], [], [], [], False
    for batch in samples:
        if stopped := is_stopped():
            break
        batch_labels = [sample.label for sample in batch]
        logits_NK = score([sample.pixels for sample in batch])
        true_ranks.append(true_label_ranks(logits_NK, index_of[batch_labels]))
        losses.append(cross_entropies(logits_NK, index_of[batch_labels]))
        labels += batch_labels
        sample_ids += [sample.sample_id for sample in batch]
        on_progress(len(batch))
    return _CountedRows(
        np.concatenate([np.zeros(0, np.int64), *true_ranks]),
        np.concatenate([np.zeros(0), *losses]),
        np.array(labels, int),
        np.array(sample_ids, int),
        stopped,
    )


def _prepare(row: dict[str, Any], transform: EvalTransform, split: Split) -> _Labelled:
    try:
        pixels = evaluation_pixels(decode_rgb(row["image"]), transform)
    except BadImage as error:
        raise ServeError(
            f"{split.folder}: the image with sample_id {row['sample_id']} cannot be decoded ({error}); "
            f"run `convnext-records verify {split.folder.parent}`"
        ) from None
    return _Labelled(pixels, row["label"], row["sample_id"])


def _compare_with_manifest(split: Split, counted: _CountedRows, ranks: Ranks) -> np.ndarray:
    """Return which sample ids have a row, bool; quarantined ones have none."""
    entry = split.entry
    per_class = ranks.sum(np.bincount(counted.labels, minlength=len(entry.rows_per_class)))
    per_sample = ranks.sum(np.bincount(counted.sample_ids, minlength=entry.rows + entry.quarantined))
    if per_sample.max() > 1 or tuple(per_class.tolist()) != entry.rows_per_class:
        raise RuntimeError(
            f"split {split.name!r}: evaluated {per_class.sum()} rows ({(per_sample > 0).sum()} distinct), the manifest "
            f"lists {split.rows}, or the labels differ from its counts per class; "
            f"run `convnext-records verify {split.folder.parent}`, and report this if it finds no fault"
        )
    return per_sample > 0


def _all_losses(counted: _CountedRows, is_stored: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Return the losses of the rows of all ranks, float64 in the order of their sample ids.

    Ranks exchange whole numbers: the two halves of a loss's 64 bits, which are 0 on all ranks but one.
    """
    halves = np.zeros((len(is_stored), 2), np.uint32)
    halves[counted.sample_ids] = counted.losses.view(np.uint32).reshape(-1, 2)
    return ranks.sum(halves).astype(np.uint32).view(np.float64).reshape(-1)[is_stored]
