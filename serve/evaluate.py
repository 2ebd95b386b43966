"""Exact accuracy and loss over a split of RECORDS: every row once, summed, divided once, compared with the manifest.

Ranks take whole batches, the same ones that a single process would make, so the number of ranks changes no logit. The
losses of the rows are collected by sample id, bit for bit, and summed as if exactly, so it changes no bit of the mean.
Training calls `evaluate` after each epoch and `convnext-serve eval` on a frozen network, so both print the same number.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mindspore import nn

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.wording import as_word
from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks
from convnext_imagenet.model.transform import EvalTransform, evaluation_pixels
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.records.reader import Split
from convnext_imagenet.serve.batching import batches, padded_logits
from convnext_imagenet.serve.class_map import ClassMap
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.prefetch import map_ahead
from convnext_imagenet.serve.scoring import cross_entropies, true_label_ranks

_NORMAL_95 = 1.959963984540054  # 97.5 % of a normal distribution lie below this many standard deviations
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
    rest: "Accuracy | None" = None  # over the rows that are not left out, if some are

    @property
    def top1(self) -> float:
        """Return the fraction of rows whose best class is the true one."""
        return self.top1_correct / self.rows

    @property
    def top5(self) -> float:
        """Return the fraction of rows whose true class is among the `guesses` best ones."""
        return self.top5_correct / self.rows


def wilson_interval(correct: int, rows: int) -> tuple[float, float]:
    """Return the limits of the 95 % confidence interval of a fraction (Wilson, JASA 1927)."""
    share, spread = correct / rows, _NORMAL_95**2 / rows
    middle = share + spread / 2
    half = math.sqrt(spread * (share * (1 - share) + spread / 4))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


@dataclass(frozen=True)
class _Labelled:
    pixels: np.ndarray
    label: int
    sample_id: int


@dataclass(frozen=True)
class _CountedRows:
    """The rows that one process has evaluated: label and sample id, and by each measure the rank and cross entropy."""

    ranks: list[np.ndarray]
    losses: list[np.ndarray]
    labels: np.ndarray
    sample_ids: np.ndarray
    is_stopped: bool


@dataclass(frozen=True)
class EvaluationSettings:
    """How rows are evaluated, beside the batch size and the workers.

    With `flip`, logits are means over the image and its mirror image. Batches are shared among `ranks`. `on_progress`
    gets the number of rows of each batch of this rank; `is_stopped` is asked before each batch.
    """

    flip: bool = False
    ranks: Ranks = SINGLE
    on_progress: Callable[[int], None] = lambda count: None
    is_stopped: Callable[[], bool] = lambda: False


_USUAL = EvaluationSettings()


def evaluate(
    classifier: nn.Cell,
    transform: EvalTransform,
    split: Split,
    batch_size: int,
    workers: int,
    settings: EvaluationSettings = _USUAL,
    left_out: Collection[int] = (),
) -> Accuracy:
    """Return accuracy and loss of `classifier` (uint8 pixels (N, S, S, 3) -> logits (N, K)) over every row of `split`.

    A batch holds `batch_size` rows, or all rows of a smaller split. The last batch is padded; padding is not counted.
    `workers` threads decode and resize while the network computes. The network is left in evaluation mode. With
    `left_out`, sample ids, `rest` has the accuracy without them.

    Raises ServeError for a row that cannot be decoded; Interrupted, on all ranks, when one was stopped; RuntimeError
    when the counts differ from the manifest, which is a bug.
    """
    (accuracy,) = _evaluate(classifier, transform, split, batch_size, workers, settings, left_out=left_out)
    return accuracy


def evaluate_subset(
    class_map: ClassMap,
    classifier: nn.Cell,
    transform: EvalTransform,
    split: Split,
    batch_size: int,
    workers: int,
    settings: EvaluationSettings = _USUAL,
) -> tuple[Accuracy, Accuracy]:
    """Return accuracy over all outputs, and restricted to the outputs of the records' classes.

    Rows of classes that the network lacks are read and compared with the manifest, but counted in neither. Arguments
    and errors are those of `evaluate`.
    """
    everything, restricted = _evaluate(classifier, transform, split, batch_size, workers, settings, class_map)
    return everything, restricted


def _evaluate(
    classifier: nn.Cell,
    transform: EvalTransform,
    split: Split,
    batch_size: int,
    workers: int,
    settings: EvaluationSettings,
    class_map: ClassMap | None = None,
    left_out: Collection[int] = (),
) -> list[Accuracy]:
    """Return the accuracy by each measure: one, or the two of a class map."""
    counted = _count_share(classifier, transform, split, batch_size, workers, settings, class_map)
    ranks = settings.ranks
    if ranks.sum(np.array(counted.is_stopped)):
        raise Interrupted("stopped while evaluating; run the same command again")
    is_stored = _compare_with_manifest(split, counted, ranks)
    is_counted = np.ones(len(split.entry.rows_per_class), bool) if class_map is None else class_map.is_known
    candidates = [int(is_counted.sum())]
    if class_map is not None:
        candidates = [class_map.network_outputs, *candidates]
    is_own, accuracies = is_counted[counted.labels], []
    for true_ranks, losses, outputs in zip(counted.ranks, counted.losses, candidates, strict=True):
        by_id, has_row = _losses_by_id(counted.sample_ids[is_own], losses[is_own], len(is_stored), ranks)
        sums = partial(_accuracy, true_ranks, counted.sample_ids, by_id, guesses=min(5, outputs), ranks=ranks)
        whole = sums(has_row)
        if left_out:
            is_kept = has_row.copy()
            is_kept[list(left_out)] = False
            whole = dataclasses.replace(whole, rest=sums(is_kept))
        accuracies.append(whole)
    return accuracies


def _count_share(
    classifier: nn.Cell,
    transform: EvalTransform,
    split: Split,
    batch_size: int,
    workers: int,
    settings: EvaluationSettings,
    class_map: ClassMap | None,
) -> _CountedRows:
    """Return this rank's share of the rows, evaluated."""
    classifier.set_train(False)
    size = min(batch_size, split.rows)
    share = settings.ranks.own.share(-(-split.rows // size))
    rows = range(share.start * size, min(share.stop * size, split.rows))
    samples = map_ahead(
        partial(_prepare, transform=transform, split=split), split.read(rows), workers, _BATCHES_AHEAD * size
    )
    score = partial(padded_logits, classifier, batch_size=size, flip=settings.flip)
    with contextlib.closing(samples):
        return _count(score, batches(samples, size), settings, class_map)


def _accuracy(
    true_ranks: np.ndarray, sample_ids: np.ndarray, losses: np.ndarray, chosen: np.ndarray, guesses: int, ranks: Ranks
) -> Accuracy:
    """Return accuracy and loss over the sample ids that are `chosen`, bool; `losses` are by sample id."""
    own = true_ranks[chosen[sample_ids]]
    top1, top5 = ranks.sum(np.array([(own == 0).sum(), (own < guesses).sum()])).tolist()
    return Accuracy(int(chosen.sum()), top1, top5, mean_loss(losses[chosen]), guesses)


def mean_loss(losses: np.ndarray) -> float:
    """Return the mean of float64 losses; their sum is rounded once, so their order changes no bit."""
    return math.fsum(losses.tolist()) / len(losses)


def _count(
    score: Callable[[list[np.ndarray]], np.ndarray],
    samples: Iterable[list[_Labelled]],
    settings: EvaluationSettings,
    class_map: ClassMap | None,
) -> _CountedRows:
    measured: list[list[tuple[np.ndarray, np.ndarray]]] = []
    labels, sample_ids, stopped = [], [], False
    for batch in samples:
        if stopped := settings.is_stopped():
            break
        batch_labels = [sample.label for sample in batch]
        logits_NK = score([sample.pixels for sample in batch])
        measured.append(_measure_batch(logits_NK, np.array(batch_labels), class_map))
        labels += batch_labels
        sample_ids += [sample.sample_id for sample in batch]
        settings.on_progress(len(batch))
    measures = range(1 if class_map is None else 2)
    return _CountedRows(
        [np.concatenate([np.zeros(0, np.int64), *(batch[m][0] for batch in measured)]) for m in measures],
        [np.concatenate([np.zeros(0), *(batch[m][1] for batch in measured)]) for m in measures],
        np.array(labels, int),
        np.array(sample_ids, int),
        stopped,
    )


def _measure_batch(
    logits_NK: np.ndarray, labels_N: np.ndarray, class_map: ClassMap | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (rank, cross entropy) of each row by each measure; a row whose class the network lacks has rank -1."""
    if class_map is None:
        return [(true_label_ranks(logits_NK, labels_N), cross_entropies(logits_NK, labels_N))]
    is_known_N = class_map.is_known[labels_N]
    found = []
    for ranks_n, losses_n in class_map.measure(logits_NK[is_known_N], labels_N[is_known_N]):
        ranks_N, losses_N = np.full(len(labels_N), -1, np.int64), np.zeros(len(labels_N))
        ranks_N[is_known_N], losses_N[is_known_N] = ranks_n, losses_n
        found.append((ranks_N, losses_N))
    return found


def _prepare(row: dict[str, Any], transform: EvalTransform, split: Split) -> _Labelled:
    try:
        pixels = evaluation_pixels(decode_rgb(row["image"]), transform)
    except BadImage as error:
        raise ServeError(
            f"{split.folder}: the image with sample_id {row['sample_id']} cannot be decoded ({error}); "
            f"run `convnext-records verify {as_word(split.folder.parent)}`"
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
            f"run `convnext-records verify {as_word(split.folder.parent)}`, and report this if it finds no fault"
        )
    return per_sample > 0


def _losses_by_id(
    sample_ids: np.ndarray, losses: np.ndarray, places: int, ranks: Ranks
) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses of the rows of all ranks, float64 (places,) by sample id, and which ids have a row, bool.

    Ranks exchange whole numbers: the two halves of a loss's 64 bits, which are 0 on all ranks but one, and whether
    there is a row.
    """
    parts = np.zeros((places, 3), np.uint32)
    parts[sample_ids, :2] = losses.view(np.uint32).reshape(-1, 2)
    parts[sample_ids, 2] = 1
    summed = ranks.sum(parts).astype(np.uint32)
    return np.ascontiguousarray(summed[:, :2]).view(np.float64).reshape(-1), summed[:, 2] > 0
