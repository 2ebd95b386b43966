"""`make bench PART=load`: records to ready uint8 batches of 64 at 224 px with 2 workers, beside the limit and peers.

The limit is a full decode by OpenCV in two processes. Every case is a process of its own that stays, and answers with
the rate of a pass between its first and its last batch; all take turns, a pass each. Peers run where
CONVNEXT_BENCH_PEERS_PYTHON has them.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from bench_ingest import lay_out
from harness import report
from limit_ingest import decode

IMAGES = int(os.environ.get("CONVNEXT_BENCH_IMAGES", "2000"))
ROUNDS = int(os.environ.get("CONVNEXT_BENCH_ROUNDS", "9"))
PEERS_PYTHON = os.environ.get("CONVNEXT_BENCH_PEERS_PYTHON", sys.executable)
POLICY = "rand-m9-mstd0.5-inc1"
HERE = Path(__file__).resolve().parent
LIMIT = "limit: full decode, 2 processes"
OURS = {"read alone": "read", "ours: crop + flip": "crop", f"ours: crop + flip + {POLICY}": POLICY}
MINDSPORE = {"MindSpore RandomCropDecodeResize + flip": "mindspore"}
PEERS = {
    "DataLoader + OpenCV: crop + flip": "opencv",
    "DataLoader + torchvision: crop + flip": "torchvision",
    "timm: crop + flip": "timm",
    f"timm: crop + flip + {POLICY}": POLICY,
}


def main() -> None:
    """Run every case in turn, round after round, and report medians."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-load-") as folder,
        ProcessPoolExecutor(2, get_context("spawn")) as pool,
    ):
        root = Path(folder)
        kind, _ = lay_out(root / "tree", IMAGES)
        _build(root)
        cases = _cases(root, pool)
        rates: dict[str, list[float]] = {what: [] for what in cases}
        for number in range(ROUNDS + 1):
            for what, run in cases.items():
                found = run()
                if number:
                    rates[what].append(found)
        medians = {what: statistics.median(found) for what, found in rates.items()}
        limit = medians[LIMIT]
        rows = [
            {"what": what, "images_per_s": round(value, 1), "ratio_to_limit": round(value / limit, 3), "kind": kind}
            for what, value in medians.items()
        ]
        report("load", rows)


def _build(root: Path) -> None:
    program = Path(sys.executable).with_name("convnext-ingest")
    options = ["--unverified", "--classes", "found", "--workers", "2"]
    _run([str(program), "build", str(root / "tree"), "--out", str(root / "records"), *options])


def _cases(root: Path, pool: ProcessPoolExecutor) -> dict[str, Callable[[], float]]:
    cases: dict[str, Callable[[], float]] = {LIMIT: partial(_limit, pool, root / "tree" / "train")}
    for what, case in (OURS | MINDSPORE).items():
        cases[what] = _passes([sys.executable, str(HERE / "load_ours.py"), case, str(root / "records")])
    if subprocess.run([PEERS_PYTHON, "-c", "import cv2, torch"], capture_output=True).returncode:
        print("peers: not installed, left out", file=sys.stderr)
        return cases
    for what, case in PEERS.items():
        cases[what] = _passes([PEERS_PYTHON, str(HERE / "load_peers.py"), case, str(root / "tree" / "train")])
    return cases


def _limit(pool: ProcessPoolExecutor, tree: Path) -> float:
    paths = sorted(str(path) for path in tree.rglob("*.JPEG"))
    begin = time.perf_counter()
    for _ in pool.map(decode, paths, chunksize=32):
        pass
    return len(paths) / (time.perf_counter() - begin)


def _passes(command: list[str]) -> Callable[[], float]:
    """A function that lets the command's process, which is started now and stays, make one pass."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ask, answer = process.stdin, process.stdout
    assert ask is not None
    assert answer is not None

    def rate() -> float:
        ask.write("\n")
        ask.flush()
        if line := answer.readline():
            return float(line)
        raise RuntimeError(f"{' '.join(command)} ended with {process.wait()}")

    return rate


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
