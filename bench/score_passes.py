"""What all cases of `score` share: the size of the work, and how a process that stays is asked for a pass.

Runs in the peers' environments too, so it needs nothing but psutil and, to write, pyarrow.
"""

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import psutil

BATCH, SIZE_PX, RESIZE_PX, TOPK, WORKERS = 32, 224, 256, 5, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What torchvision declares for detection fails where its build and torch's are of different kinds; unused here.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("unused")


class Watch:
    """What a pass takes between `start` and `stop`: seconds by the clock, and of processors in all its processes."""

    def __init__(self) -> None:
        self._begun = self._taken = (0.0, 0.0)

    def start(self) -> None:
        """Count from here; a second call begins anew."""
        self._begun = self._now()

    def stop(self) -> None:
        """Count no further."""
        self._taken = self._now()

    def line(self, images: int) -> str:
        """Images/s and processor milliseconds an image, as the bench reads them."""
        clock_s, cpu_s = (after - before for before, after in zip(self._begun, self._taken, strict=True))
        return f"{images / clock_s} {1000 * cpu_s / images}"

    @staticmethod
    def _now() -> tuple[float, float]:
        here, cpu_s = psutil.Process(), 0.0
        for process in [here, *here.children(recursive=True)]:
            try:
                cpu_s += sum(process.cpu_times()[:4])  # with its ended children
            except psutil.NoSuchProcess:
                continue
        return time.perf_counter(), cpu_s


def answer(one_pass: Callable[[Path, Watch], int], out: Path) -> None:
    """For each line of standard input make a pass into a new file or folder under `out` and print its rates.

    `one_pass(target, watch)` starts and stops the watch itself, and returns the number of images.
    """
    for number, _ in enumerate(sys.stdin):
        watch = Watch()
        images = one_pass(out / f"pass-{number}", watch)
        print(watch.line(images), flush=True)


def image_paths(images: str) -> list[Path]:
    """All files under a folder, in order."""
    return sorted(path for path in Path(images).rglob("*") if path.is_file())


def write_parquet(target: Path, names, indices, scores) -> None:
    """Write a row for each file: its name, its best classes, their scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"source": names, "class_index": list(indices), "score": list(scores)})
    pq.write_table(table, target, compression="zstd")
