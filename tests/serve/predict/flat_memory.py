"""Score generated inputs by a network of no weight, and print the peak memory early and at the end, in MiB.

Run by test_memory.py in a process of its own: CHECKPOINT OUT INPUTS PART_ROWS TOPK [EXTRA...].
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from peak_memory import peak_kib

from convnext_imagenet.serve.checkpoint import Checkpoint, load_checkpoint
from convnext_imagenet.serve.inputs.inputs import Item
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.settings import PredictOptions

_EARLY = 0.2
_PICTURE = cv2.imencode(".png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3))[1].tobytes()


class Weightless(Checkpoint):
    """A checkpoint whose network answers zeros."""

    def classifier(self, with_features: bool = False, precision: str = "float32") -> Any:
        zeros = np.zeros((1000, len(self.card.classes)), np.float32)
        return lambda pixels_NHWC: SimpleNamespace(asnumpy=lambda: zeros[: len(pixels_NHWC)])


@dataclass(frozen=True)
class Generated:
    """So many inputs, each with a name and bytes of its own."""

    count: int
    sha256: str = hashlib.sha256(_PICTURE).hexdigest()

    def items(self, numbers: range) -> Iterator[Item]:
        """The inputs with these numbers."""
        for number in numbers:
            yield Item(f"{number:09d}.png", partial(bytes.__add__, _PICTURE, number.to_bytes(4, "big")))

    def is_inside(self, path: Path) -> bool:
        """Never."""
        return False


def main(checkpoint: str, out: str, count: int, options: PredictOptions) -> None:
    """Score `count` inputs; with small parts the early peak holds a whole one."""
    loaded = load_checkpoint(Path(checkpoint))
    weightless = Weightless(loaded.path, loaded.sha256, loaded.card, loaded.arrays)
    done, early = 0, 0.0

    def advance(number: int) -> None:
        nonlocal done, early
        done += number
        if not early and done >= _EARLY * count:
            early = peak_kib() / 1024

    with open_job(weightless, Generated(count), Path(out), options) as job:
        summary = job.run(advance)
    print(summary.rows, summary.statuses, f"{early:.1f} {peak_kib() / 1024:.1f}", sep="|")


if __name__ == "__main__":
    part_rows, topk = map(int, sys.argv[4:6])
    main(
        sys.argv[1],
        sys.argv[2],
        int(sys.argv[3]),
        PredictOptions(topk=topk, part_rows=part_rows, batch_size=100, workers=2, extras=tuple(sys.argv[6:])),
    )
