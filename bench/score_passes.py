"""What all cases of `score` share: the size of the work, and how a process that stays gets its orders.

Runs in the peers' environments, too, so it needs only psutil and, for writing, pyarrow.
"""

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import psutil

BATCH, SIZE_PX, RESIZE_PX, TOPK, WORKERS = 32, 224, 256, 5, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# torchvision's declarations for detection fail if its build and torch's differ; nothing here uses them.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("unused")


class Watch:
    """Measures a pass between `start` and `stop`: wall time, and processor time of all its processes."""

    def __init__(self) -> None:
        self._begun = self._taken = (0.0, 0.0)

    def start(self) -> None:
        """Start measuring; a second call starts again."""
        self._begun = self._now()

    def stop(self) -> None:
        """Stop measuring."""
        self._taken = self._now()

    def line(self, images: int) -> str:
        """Return images/s and processor milliseconds per image, as the bench reads them."""
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
    """Make a pass for each line of standard input, into a new file or folder under `out`, and print its rates.

    `one_pass(target, watch)` starts and stops the watch itself, and returns the number of images.
    """
    for number, _ in enumerate(sys.stdin):
        watch = Watch()
        images = one_pass(out / f"pass-{number}", watch)
        print(watch.line(images), flush=True)


def image_paths(images: str) -> list[Path]:
    """Return all files under a folder, sorted."""
    return sorted(path for path in Path(images).rglob("*") if path.is_file())


def write_parquet(target: Path, names, indices, scores) -> None:
    """Write one row per file: name, best classes, scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"source": names, "class_index": list(indices), "score": list(scores)})
    pq.write_table(table, target, compression="zstd")
