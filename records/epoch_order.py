"""The order in which an epoch visits the rows of a split: a pure function of (seed, epoch). Reads no row."""

import numpy as np

from convnext_imagenet.records.keyed_random import keyed_rng

WINDOW_BLOCKS = 64  # part of every stored order: another value changes what a resumed run sees


def epoch_order(rows: int, seed: int, epoch: int, block_rows: int = 0) -> np.ndarray:
    """Return the order in which an epoch visits the rows of a split: a permutation of 0..rows-1, int64 (rows,).

    With `block_rows` above 0 it permutes blocks of that many neighbouring rows, then the rows within windows of
    `WINDOW_BLOCKS` blocks: at any time, reads come from only that many positions of the files.
    """
    rng = keyed_rng(seed, "epoch order", epoch)
    if not block_rows:
        return rng.permutation(rows)
    starts = rng.permutation(np.arange(0, rows, block_rows))
    windows = (starts[at : at + WINDOW_BLOCKS] for at in range(0, len(starts), WINDOW_BLOCKS))
    blocks = (np.concatenate([np.arange(s, min(s + block_rows, rows)) for s in window]) for window in windows)
    return np.concatenate([rng.permutation(block) for block in blocks])
