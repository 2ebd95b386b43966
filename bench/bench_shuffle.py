"""`make bench PART=shuffle`: how well `data.shuffle_block_rows` mixes ImageNet's 1,281,167 training rows.

`classes` is the mean count of classes in a batch of 1,024 if the rows lay class after class, the worst order to store
them in. `met again` says how often two rows of a batch share a batch in the next epoch too, chance being 1. `window`
is what is read at random at a time, of images of 110 KiB. Nothing is timed: the figures are the same everywhere.
"""

import numpy as np
from harness import report

from convnext_imagenet.records.epoch_order import WINDOW_BLOCKS, epoch_order

ROWS, CLASSES, BATCH, IMAGE_KIB = 1_281_167, 1000, 1024, 110
BLOCK_ROWS = (0, 16, 64, 256, 1024, 4096)


def main() -> None:
    """Report one row for each size of block; 0 is the full shuffle."""
    report("shuffle", [_row(block_rows) for block_rows in BLOCK_ROWS])


def _row(block_rows: int) -> dict[str, object]:
    first, second = (_batches(epoch_order(ROWS, 0, epoch, block_rows)) for epoch in (1, 2))
    window_rows = min(ROWS, block_rows * WINDOW_BLOCKS) if block_rows else ROWS
    return {
        "block_rows": block_rows,
        "classes": round(float(np.mean([len(np.unique(batch)) for batch in first * CLASSES // ROWS])), 1),
        "met_again": round(_met_again(first, second), 2),
        "window_gib": round(window_rows * IMAGE_KIB / 2**20, 2),
    }


def _batches(order: np.ndarray) -> np.ndarray:
    whole = len(order) // BATCH * BATCH
    return order[:whole].reshape(-1, BATCH)


def _met_again(first: np.ndarray, second: np.ndarray) -> float:
    """Pairs that share a batch in both epochs, beside their count in two independent orders."""
    batch_of = np.full(ROWS, -1)
    batch_of[second] = np.arange(len(second))[:, None]
    pairs = 0
    for later in batch_of[first]:
        counts = np.bincount(later[later >= 0])
        pairs += int((counts * (counts - 1) // 2).sum())
    return pairs / (len(first) * BATCH * (BATCH - 1) / 2) * ROWS / BATCH
