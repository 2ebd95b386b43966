"""What all cases of `load` share: the size of the work, and how a resident process is asked for the rate of a pass."""

import sys
import time
from collections.abc import Callable, Iterator

BATCH, SIZE_PX, WORKERS = 64, 224, 2
CROP_AREAS, CROP_RATIOS = (0.08, 1.0), (3 / 4, 4 / 3)


def answer(one_pass: Callable[[int], Iterator[int]]) -> None:
    """For each line of standard input print the rate of `one_pass(epoch)`, which yields how many images a batch has."""
    for epoch, _ in enumerate(sys.stdin, 1):
        print(rate(one_pass(epoch)), flush=True)


def rate(batches: Iterator[int]) -> float:
    """Images/s from the first batch on."""
    next(batches)
    begin, images = time.perf_counter(), 0
    for count in batches:
        images += count
    return images / (time.perf_counter() - begin)
