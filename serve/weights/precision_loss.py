"""What lower precision costs: answers of an export beside the network's, over every row of a split of RECORDS."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from convnext_imagenet.model.exchange.onnx_precision import LowPrecision
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.batching import batches, network_outputs
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.engine import Engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Item
from convnext_imagenet.serve.inputs.records import RecordsInputs, open_split
from convnext_imagenet.serve.prefetch import map_ahead
from convnext_imagenet.serve.samples import Decoding, Sample, read_sample
from convnext_imagenet.serve.scoring import probabilities
from convnext_imagenet.serve.settings import ErrorLimit

_USUAL_LIMIT = ErrorLimit(1, is_percentage=True)
_AS_EVALUATED = Decoding(refuses_damage=False)  # the rows that `convnext-serve eval` counts


@dataclass(frozen=True)
class Reduction:
    """Lower precision of an ONNX export: which, the rows that measure its loss, and the most that may change.

    `max_changed` limits the rows of `split` whose best class is another one. int8 also takes the first
    `calibration_rows` of `calibration_split`. The other fields change no number but the last bits.
    """

    precision: LowPrecision
    records: Path
    split: str = "val"
    max_changed: ErrorLimit = _USUAL_LIMIT
    calibration_split: str = "train"
    calibration_rows: int = 256
    batch_size: int = 32
    workers: int = 1
    on_progress: Callable[[int], None] = lambda rows: None


@dataclass(frozen=True)
class PrecisionLoss:
    """Of `rows` images, how many have another best class, and the largest difference of a probability.

    `labelled` rows have a class that the network knows; of these both programs get so many right.
    """

    rows: int
    changed: int
    largest_difference: float
    labelled: int
    right_before: int
    right_after: int


def measure_loss(checkpoint: Checkpoint, network: Engine, export: Engine, reduction: Reduction) -> PrecisionLoss:
    """Return what an export loses against the network; both take uint8 pixels (N, S, S, 3).

    Raises ServeError for answers of the export that are not finite, and for a row that cannot be decoded.
    """
    wnids = [wnid for wnid, _ in checkpoint.card.classes]
    inputs = open_split(reduction.records, reduction.split, wnids if any(wnids) else [""])
    rows = changed = labelled = before = after = 0
    largest = 0.0
    for batch in _batches(inputs, inputs.count, checkpoint, reduction):
        pixels = [sample.pixels for sample in batch]
        ours_NK = network_outputs(network, pixels, reduction.batch_size)[0]
        theirs_NK = network_outputs(export, pixels, reduction.batch_size)[0]
        if not np.isfinite(theirs_NK).all():
            raise ServeError(
                f"--precision {reduction.precision}: the export returns NaN or infinity, as values of the network "
                f"exceed the range, so it is not published; choose another precision"
            )
        ours_N, theirs_N = ours_NK.argmax(axis=1), theirs_NK.argmax(axis=1)
        labels_N = np.array([-1 if sample.label is None else sample.label for sample in batch])
        rows, changed = rows + len(batch), changed + int((ours_N != theirs_N).sum())
        labelled += int((labels_N >= 0).sum())
        before, after = before + int((ours_N == labels_N).sum()), after + int((theirs_N == labels_N).sum())
        largest = max(largest, float(np.abs(probabilities(ours_NK) - probabilities(theirs_NK)).max()))
        reduction.on_progress(len(batch))
    return PrecisionLoss(rows, changed, largest, labelled, before, after)


def check_loss(loss: PrecisionLoss, reduction: Reduction) -> None:
    """Raise ServeError if more rows change their class than allowed."""
    if not reduction.max_changed.allows(loss.changed, loss.rows):
        raise ServeError(
            f"--precision {reduction.precision}: {loss.changed} of {loss.rows} rows change their class, more than "
            f"--max-changed {reduction.max_changed} allows, so nothing is published; choose another precision, or "
            f"allow more"
        )


def calibration_batches(checkpoint: Checkpoint, reduction: Reduction) -> Iterator[np.ndarray]:
    """Yield the pixels of the rows to calibrate by, uint8 (N, S, S, 3)."""
    inputs = open_split(reduction.records, reduction.calibration_split, [])
    count = min(reduction.calibration_rows, inputs.count)
    for batch in _batches(inputs, count, checkpoint, reduction):
        yield np.stack([sample.pixels for sample in batch if sample.pixels is not None])


def reduction_in_words(reduction: Reduction) -> list[tuple[str, str]]:
    """Return what was asked for, as rows (what, meaning) of a card."""
    records = Records.open(reduction.records)
    rows = [
        (
            "measured on",
            f"{reduction.split} of the records with manifest SHA-256 `{records.manifest_sha256}`, at most "
            f"{reduction.max_changed} of the rows may change their class",
        )
    ]
    if reduction.precision == "int8":
        count = min(reduction.calibration_rows, records.split(reduction.calibration_split).rows)
        rows.append(("calibrated by", f"the first {count} rows of {reduction.calibration_split}"))
    return rows


def loss_in_words(loss: PrecisionLoss) -> str:
    """Return the figures in words."""
    words = (
        f"{loss.changed} of {loss.rows} rows change their class; the largest difference of a probability is "
        f"{loss.largest_difference:.2g}"
    )
    if loss.labelled:
        words += f"; top-1 {loss.right_before}/{loss.labelled} in float32, {loss.right_after}/{loss.labelled} here"
    return words


def _batches(inputs: RecordsInputs, count: int, checkpoint: Checkpoint, reduction: Reduction) -> Iterator[list[Sample]]:
    read = partial(_read, checkpoint=checkpoint)
    items = enumerate(inputs.items(range(count)))
    return batches(map_ahead(read, items, reduction.workers, 2 * reduction.batch_size), reduction.batch_size)


def _read(numbered: tuple[int, Item], checkpoint: Checkpoint) -> Sample:
    number, item = numbered
    sample = read_sample(item, number, checkpoint.card.transform, _AS_EVALUATED)
    if sample.pixels is None:
        raise ServeError(
            f"{item.source}: cannot be decoded ({sample.error}); run `convnext-records verify` on the records"
        )
    return sample
