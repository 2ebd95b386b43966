"""Order and randomness as pure functions of (seed, epoch, row), never of a process, thread or rank."""

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

WINDOW_BLOCKS = 64


class _Words(ISeedSequence):
    """A generator's first words as they are: `Philox(key=...)` asks the system for entropy that it then drops."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the words, which are as many as Philox asks for."""
        return self._words


def keyed_rng(seed: int, *key: int | str) -> np.random.Generator:
    """A generator that depends on the seed and the key alone (Philox, a counter-based generator).

    Equal keys give equal draws on every machine; keys that differ in one part give independent streams.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *key))
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(_Words(words)))  # type: ignore[arg-type]


def epoch_order(rows: int, seed: int, epoch: int, block_rows: int = 0) -> np.ndarray:
    """The order in which an epoch visits the rows of a split: a permutation of 0..rows-1, int64.

    With `block_rows` above 0 it permutes blocks of that many neighbouring rows, then the rows within windows of
    `WINDOW_BLOCKS` blocks: reads stay within that many places of the files at a time.
    """
    rng = keyed_rng(seed, "epoch order", epoch)
    if not block_rows:
        return rng.permutation(rows)
    starts = rng.permutation(np.arange(0, rows, block_rows))
    windows = (starts[at : at + WINDOW_BLOCKS] for at in range(0, len(starts), WINDOW_BLOCKS))
    blocks = (np.concatenate([np.arange(s, min(s + block_rows, rows)) for s in window]) for window in windows)
    return np.concatenate([rng.permutation(block) for block in blocks])
