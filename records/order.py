"""Order and randomness as pure functions of (seed, epoch, row), never of a process, thread or rank."""

import hashlib

import numpy as np


def keyed_rng(seed: int, *key: int | str) -> np.random.Generator:
    """A generator that depends on the seed and the key alone (Philox, a counter-based generator).

    Equal keys give equal draws on every machine; keys that differ in one part give independent streams.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *key))
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=words))


def epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits the rows of a split: a permutation of 0..rows-1, int64."""
    return keyed_rng(seed, "epoch order", epoch).permutation(rows)
