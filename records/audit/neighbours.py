"""Pairs of 64-bit hashes that differ in few bits, without comparing all pairs.

Each hash is cut into four bands of 16 bits. Two hashes that differ in seven bits or fewer have a band in which they
differ in one bit or none. So entries are sorted by a band, and a query is compared only with entries whose band is its
own or differs in one bit (Norouzi, Punjani and Fleet, "Fast search in Hamming space with multi-index hashing", CVPR
2012). Pairs at a distance of eight to ten are found with a high probability.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_BANDS, _BAND_BITS = 4, 16
_COMPARED_AT_A_TIME = 1 << 15  # these fit into the cache of a core


@dataclass(frozen=True)
class Hits:
    """Pairs of positions among queries and entries, int64 (n,), and the number of bits in which they differ."""

    queries: np.ndarray
    entries: np.ndarray
    distances: np.ndarray


def near_hashes(queries: np.ndarray, entries: np.ndarray, radius: int) -> Iterator[Hits]:
    """Yield pairs of a query and an entry, uint64, that differ in at most `radius` bits; a pair may come four times."""
    flips = np.concatenate([[0], 1 << np.arange(_BAND_BITS)]).astype(np.int64)
    for band in range(_BANDS):
        query_order, query_starts = _by_band(queries, band)
        entry_order, entry_starts = _by_band(entries, band)
        sorted_queries, sorted_entries = queries[query_order], entries[entry_order]
        for value in np.flatnonzero(np.diff(query_starts)):
            near = value ^ flips
            places = _ranges(entry_starts[near], entry_starts[near + 1])
            if len(places):
                first, last = query_starts[value], query_starts[value + 1]
                query, entry, distances = _compare(sorted_queries[first:last], sorted_entries[places], radius)
                if len(query):
                    yield Hits(query_order[first + query], entry_order[places[entry]], distances)


def _by_band(hashes: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the hashes by a band, and where in it each value of the band starts (65,537 places)."""
    keys = ((hashes >> np.uint64(band * _BAND_BITS)) & np.uint64(0xFFFF)).astype(np.uint16)
    order = np.argsort(keys, kind="stable").astype(np.int32)
    counts = np.bincount(keys, minlength=1 << _BAND_BITS)
    return order, np.concatenate([[0], np.cumsum(counts)])


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Return the numbers of all ranges, one after another."""
    lengths = stops - starts
    offsets = np.repeat(stops - np.cumsum(lengths), lengths)
    return offsets + np.arange(lengths.sum())


def _compare(queries: np.ndarray, entries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return places of queries and entries that differ in at most `radius` bits, and these numbers of bits."""
    rows = max(1, _COMPARED_AT_A_TIME // len(entries))
    found = []
    for first in range(0, len(queries), rows):
        distances = count_bits(queries[first : first + rows, None] ^ entries)
        query, entry = np.nonzero(distances <= radius)
        found.append((first + query, entry, distances[query, entry].astype(np.int64)))
    query, entry, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return query, entry, distances


def count_bits(values: np.ndarray) -> np.ndarray:
    """Return how many bits of each uint64 are set, as uint64; `values` is overwritten."""
    half = values >> np.uint64(1)
    half &= np.uint64(0x5555555555555555)
    values -= half
    half = values >> np.uint64(2)
    half &= np.uint64(0x3333333333333333)
    values &= np.uint64(0x3333333333333333)
    values += half
    values += values >> np.uint64(4)
    values &= np.uint64(0x0F0F0F0F0F0F0F0F)
    values *= np.uint64(0x0101010101010101)
    values >>= np.uint64(56)
    return values
