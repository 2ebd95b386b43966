"""Ranks of one job as threads of this process, for tests of what they do together."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.launch.ranks.rank import Rank

Result = TypeVar("Result")
_PATIENCE_S = 60


def run_together(count: int, work: Callable[[Ranks], Result], devices: int | None = None) -> list[Result]:
    """Return what `work` returns as each of `count` ranks, `devices` of them on each machine.

    Their all-reduce adds up float32 as a device does. What one of them raises ends the others and is raised.
    """
    barrier = threading.Barrier(count, timeout=_PATIENCE_S)
    given: list[np.ndarray] = [np.zeros(0)] * count

    def exchange(rank: int, numbers: np.ndarray) -> np.ndarray:
        assert numbers.dtype == np.float32
        given[rank] = numbers
        barrier.wait()
        total = np.sum(np.stack(given), axis=0, dtype=np.float32)
        barrier.wait()
        return total

    def as_rank(rank: int) -> Result:
        own = Rank(rank, count, rank % (devices or count))
        try:
            return work(Ranks(own, lambda numbers: exchange(rank, numbers)))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(as_rank, rank) for rank in range(count)]
    failures = [error for future in futures if (error := future.exception()) is not None]
    for failure in sorted(failures, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise failure
    return [future.result() for future in futures]
