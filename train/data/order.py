"""The rows that an epoch visits, in order, and the ids by which their augmentation is drawn."""

from dataclasses import dataclass

import numpy as np

from convnext_imagenet.records.epoch_order import balanced_order, epoch_order, occurrences
from convnext_imagenet.records.folds import rows_outside
from convnext_imagenet.records.reader import Split
from convnext_imagenet.train.config.config import Config

# Ids of samples are ranks among the images of a split, far below this.
_NEXT_OCCURRENCE = 1 << 40


@dataclass(frozen=True)
class EpochOrder:
    """The rows of an epoch, int64 (rows,), and how often each came before in this epoch, int64 (rows,)."""

    rows: np.ndarray
    occurrences: np.ndarray


def training_rows(split: Split, config: Config) -> np.ndarray:
    """Return the rows of train that a run may visit, rising, int64: all, or those outside of `data.leave_out`.

    Raises ArtefactError when the images' digests or `data.copies` are needed and cannot be read.
    """
    return rows_outside(config.data.leave_out, split.entry, split.folder, config.data.copies)


def training_order(split: Split, config: Config, epoch: int) -> EpochOrder:
    """Return the order of an epoch: a permutation, or with `data.balance_power` more even classes.

    Raises ArtefactError when labels or digests are needed and cannot be read.
    """
    seed, power = config.train.seed, config.data.balance_power
    visited = training_rows(split, config)
    if not power:
        rows = visited[epoch_order(len(visited), seed, epoch, config.data.shuffle_block_rows)]
        return EpochOrder(rows, np.zeros(len(rows), np.int64))
    rows = visited[balanced_order(split.labels()[visited], seed, epoch, power)]
    return EpochOrder(rows, occurrences(rows))


def step_sample_ids(split: Split, config: Config, epoch: int, step: int) -> list[int]:
    """Return the ids of the samples of all ranks in global batch `step` of an epoch, which counts from 0, in order."""
    size = config.data.global_batch_size
    rows = training_order(split, config, epoch).rows[step * size : (step + 1) * size]
    return [row["sample_id"] for row in split.read(rows, ("sample_id",))]


def draw_ids(sample_ids: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
    """Return the ids by which augmentation is drawn: a row that comes again in an epoch gets other draws."""
    return sample_ids + occurrences * _NEXT_OCCURRENCE
