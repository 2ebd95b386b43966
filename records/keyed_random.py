"""Random generators as pure functions of (seed, key), never of a process, thread or rank. Draws nothing itself."""

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class _Words(ISeedSequence):
    """Passes a generator its key words: `Philox(key=...)` takes three times as long (DECISIONS, 2026-11-24)."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the words: Philox asks for exactly as many."""
        return self._words


def keyed_rng(seed: int, *key: int | str) -> np.random.Generator:
    """Return a generator that depends only on the seed and the key (Philox, a counter-based generator).

    Equal keys give equal draws on every machine; keys that differ in one part give independent streams.
    """
    # Types and separators are in the text, so that ("1", 2), (1, 2) and (12,) are three keys.
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *key))
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(_Words(words)))  # type: ignore[arg-type]
