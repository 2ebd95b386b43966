"""The two halves of every job here: threads that make pixels, and a network that sees batches of one fixed size.

Results come in the order of the items for any number of threads. The network compiles once, because a short
batch is padded with black pictures whose logits nobody reads.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import mindspore as ms
import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Yield `function(item)` in the order of the items, computed by threads up to `ahead` items in advance.

    At most `ahead` results wait in memory. An exception of `function` is raised at its place in the order.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[Future[Result]] = deque()
    try:
        waiting.extend(pool.submit(function, item) for item in islice(remaining, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter when they do not divide."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def padded_logits(classifier: Any, pixels: Sequence[np.ndarray | None], batch_size: int) -> np.ndarray:
    """The logits (n, K) of n <= batch_size pictures, float32, from a network that always sees `batch_size`.

    A picture keeps its place in the batch and None leaves its place black, because the place moves the last bits
    of a logit: so an unreadable picture changes nothing for its neighbours. One picture at least must be there.
    """
    shape = next(picture.shape for picture in pixels if picture is not None)
    batch_NHWC = np.zeros((batch_size, *shape), dtype=np.uint8)
    for place, picture in enumerate(pixels):
        if picture is not None:
            batch_NHWC[place] = picture
    return classifier(ms.Tensor(batch_NHWC)).asnumpy()[: len(pixels)]
