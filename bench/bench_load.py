"""`make bench PART=load`: records to uint8 batches of 64 at 224 px with 2 workers, compared with the limit and peers.

The limit is a full decode by OpenCV in two processes. Each case runs in its own process, which stays alive; the cases
take turns, one pass each, and report the rate between the first and the last batch of a pass. Processor time is that of
the complete pass, including the start of its threads or processes. A peer runs in the first interpreter of
CONVNEXT_BENCH_PEERS_PYTHON, a list separated by colons, that can import what it needs.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
from bench_ingest import lay_out
from harness import baseline_script, is_wanted, python_with, report
from limit_ingest import decode

IMAGES = int(os.environ.get("CONVNEXT_BENCH_IMAGES", "2000"))
ROUNDS = int(os.environ.get("CONVNEXT_BENCH_ROUNDS", "9"))
POLICY = "rand-m9-mstd0.5-inc1"
HERE = Path(__file__).resolve().parent
LIMIT = "limit: full decode, 2 processes"
OURS = {
    "read alone": "read",
    "ours: crop + flip": "crop",
    "ours, bilinear: crop + flip": "bilinear",
    f"ours: crop + flip + {POLICY}": POLICY,
}
MINDSPORE = {"MindSpore RandomCropDecodeResize + flip": "mindspore"}
PEERS = {  # module, its case, and what else the module imports
    "DataLoader + OpenCV: crop + flip": ("load_peers_torch", "opencv", "cv2, torchvision"),
    "DataLoader + torchvision: crop + flip": ("load_peers_torch", "torchvision", "torchvision"),
    "timm: crop + flip": ("load_peers_torch", "timm", "timm"),
    f"timm: crop + flip + {POLICY}": ("load_peers_torch", POLICY, "timm"),
    "tf.data, fused: crop + flip": ("load_peers_others", "tf.data", "tensorflow"),
    "DALI on the CPU: crop + flip": ("load_peers_others", "dali", "nvidia.dali"),
    "grain + OpenCV: crop + flip": ("load_peers_others", "grain", "grain, cv2"),
    "ffcv, re-encoded at 500 px, half raw: crop + flip": ("load_peers_others", "ffcv", "ffcv"),
}


@dataclass(frozen=True)
class Pass:
    """A case: `run` makes one pass and returns its images/s; `processes` returns the processes that do the work."""

    run: Callable[[], float]
    processes: Callable[[], list[psutil.Process]]

    def cpu_s(self) -> float:
        """Return the processor seconds that its processes and their ended children have used so far."""
        return sum(sum(process.cpu_times()[:4]) for process in self.processes())


def main() -> None:
    """Run all cases in turn, round after round, and report medians."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-load-") as folder,
        ProcessPoolExecutor(2, get_context("spawn")) as pool,
    ):
        root = Path(folder)
        kind, _ = lay_out(root / "tree", IMAGES)
        _build(root)
        cases = _cases(root, pool)
        rates: dict[str, list[float]] = {what: [] for what in cases}
        cpu_s: dict[str, list[float]] = {what: [] for what in cases}
        for number in range(ROUNDS + 1):
            for what, case in cases.items():
                before = case.cpu_s()
                found = case.run()
                if number:  # the first round warms caches and does not count
                    rates[what].append(found)
                    cpu_s[what].append(case.cpu_s() - before)
        limit = statistics.median(rates[LIMIT])
        report("load", [_row(what, rates[what], cpu_s[what], limit, kind) for what in cases])


def _row(what: str, rates: list[float], cpu_s: list[float], limit: float, kind: str) -> dict[str, object]:
    return {
        "what": what,
        "images_per_s": round(statistics.median(rates), 1),
        "ratio_to_limit": round(statistics.median(rates) / limit, 3),
        "cpu_ms_per_image": round(1000 * statistics.median(cpu_s) / IMAGES, 2),
        "kind": kind,
    }


def _build(root: Path) -> None:
    program = Path(sys.executable).with_name("convnext-ingest")
    options = ["--unverified", "--classes", "found", "--workers", "2"]
    _run([str(program), "build", str(root / "tree"), "--out", str(root / "records"), *options])


def _cases(root: Path, pool: ProcessPoolExecutor) -> dict[str, Pass]:
    cases = {LIMIT: Pass(partial(_limit, pool, root / "tree" / "train"), _pool_processes)}
    for what, case in (OURS | MINDSPORE).items():
        if is_wanted(what):
            cases[what] = _passes([sys.executable, str(HERE / "load_ours.py"), case, str(root / "records")])
        if (earlier := baseline_script("load_ours.py")) and what in OURS and is_wanted(f"baseline {what}"):
            cases[f"baseline {what}"] = _passes([*earlier, case, str(root / "records")])
    for what, (module, case, imports) in PEERS.items():
        if not is_wanted(what):
            continue
        if python := python_with(f"import {module}, {imports}"):
            cases[what] = _passes([python, str(HERE / f"{module}.py"), case, str(root / "tree" / "train")])
        else:
            print(f"{what}: {imports} not installed, skipped", file=sys.stderr)
    return cases


def _limit(pool: ProcessPoolExecutor, tree: Path) -> float:
    paths = sorted(str(path) for path in tree.rglob("*.JPEG"))
    begin = time.perf_counter()
    for _ in pool.map(decode, paths, chunksize=32):
        pass
    return len(paths) / (time.perf_counter() - begin)


def _pool_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def _passes(command: list[str]) -> Pass:
    """Return the passes of a command's process, which starts now and stays alive."""
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

    measured = psutil.Process(process.pid)
    return Pass(rate, lambda: [measured])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout
