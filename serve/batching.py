"""Pictures -> batches of one fixed size for the network.

A short batch is padded with black: a graph compiles once for each shape, so one shape means one compilation.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from convnext_imagenet.serve.engine import Engine, network_engine

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`; the last list may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def padded_logits(
    classifier: Any, pixels: Sequence[np.ndarray | None], batch_size: int, flip: bool = False
) -> np.ndarray:
    """Return the logits (n, K), float32, of a MindSpore network for n <= batch_size pictures; see `network_outputs`."""
    return network_outputs(network_engine(classifier), pixels, batch_size, flip)[0]


def network_outputs(
    engine: Engine, pixels: Sequence[np.ndarray | None], batch_size: int, flip: bool = False
) -> list[np.ndarray]:
    """Return an engine's outputs for n <= batch_size pictures: logits (n, K) and, with features, these (n, C); float32.

    `pixels` are uint8 (S, S, 3), at least one of them; None leaves its position in the batch black. The position in the
    batch moves the last bits of a logit, so an unreadable picture keeps its position and changes no neighbour.
    With `flip`, the outputs are means over the pictures and their mirror images.
    """
    if flip:
        mirrored = [None if picture is None else picture[:, ::-1] for picture in pixels]
        both = (network_outputs(engine, pictures, batch_size) for pictures in (pixels, mirrored))
        return [(plain + flipped) / 2 for plain, flipped in zip(*both, strict=True)]
    shape = next(picture.shape for picture in pixels if picture is not None)
    batch_NHWC = np.zeros((batch_size, *shape), dtype=np.uint8)
    for position, picture in enumerate(pixels):
        if picture is not None:
            batch_NHWC[position] = picture
    return [output_NK[: len(pixels)] for output_NK in engine(batch_NHWC)]
