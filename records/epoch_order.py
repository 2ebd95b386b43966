"""The order in which an epoch visits the rows of a split: a pure function of (seed, epoch), and of labels if asked."""

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


def balanced_order(labels: np.ndarray, seed: int, epoch: int, power: float) -> np.ndarray:
    """Return as many rows as there are labels, int64 (rows,), for an epoch with classes drawn more evenly.

    A class of n rows gets a share proportional to n ** (1 - power): 0 keeps the shares, 1 makes them equal. Within an
    epoch every row of a class comes equally often, or once more, chosen anew in each epoch.
    """
    rng = keyed_rng(seed, "balanced order", epoch)
    by_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    counts = np.array([len(rows) for rows in by_class])
    quotas = _whole_shares(counts ** (1.0 - power), len(labels))
    chosen = []
    for rows, quota in zip(by_class, quotas, strict=True):
        whole, rest = divmod(int(quota), len(rows))
        chosen += [rows] * whole + [rng.permutation(rows)[:rest]]
    return rng.permutation(np.concatenate(chosen))


def occurrences(order: np.ndarray) -> np.ndarray:
    """Return for each position of `order` how often its row came before, int64."""
    by_row = np.argsort(order, kind="stable")
    starts = np.flatnonzero(np.diff(order[by_row], prepend=-1))
    counted = np.empty(len(order), np.int64)
    counted[by_row] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return counted


def _whole_shares(weights: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers proportional to `weights` with the sum `total`: rounded down, the largest rests up."""
    exact = weights / weights.sum() * total
    whole = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole
