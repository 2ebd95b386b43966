"""`make bench PART=cluster`: the cost of Ray over the local pool for the same work, and an estimate for clusters.

Both run the same command over the same tree with one worker per core of this process, in turn, from start to finished
records. `start` is fitted to the times for all images and for a part of them: `units` is the time of the work itself.
The estimate compares the measured rate per core with the limits of what the nodes share.
"""

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench_ingest import PART, lay_out, rate_and_start
from harness import report

IMAGES = int(os.environ.get("CONVNEXT_BENCH_IMAGES", "40000"))
ROUNDS = int(os.environ.get("CONVNEXT_BENCH_ROUNDS", "2"))
CORES = len(os.sched_getaffinity(0))
COMMAND = [sys.executable, "-c", "from convnext_imagenet.ingest.cli import main; main()", "build"]
ENGINES = {"local pool": (), "Ray": ("--engine", "ray")}

IMAGE_BYTES = 110e3
NODE_CORES, NODE_DEVICES = 32, 8
NODE_LINK = 25e9 / 8  # bytes/s of a node to the shared storage
STORAGE = 10e9  # bytes/s of the shared storage for all nodes together
DEVICE_RATE = 4205 / 8  # images/s, published for training ConvNeXt-T on 8 Ascend 910; scoring is faster
DECODE_RATE = 400.0  # images/s per core, decode and evaluation transform (bench PART=load)
MOST_SHARDS, PART_ROWS = 64, 4096


def main() -> None:
    """Time both engines in turn, then report the medians and the estimate."""
    if subprocess.run([sys.executable, "-c", "import ray"], capture_output=True, check=False).returncode:
        print("Ray is not installed: pip install 'convnext_imagenet[ray]'", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as folder:
        root = Path(folder)
        lay_out(root / "part", PART)
        lay_out(root / "tree", IMAGES)
        seconds: dict[tuple[str, str], list[float]] = {(e, t): [] for e in ENGINES for t in ("part", "tree")}
        for number in range(ROUNDS + 1):
            for engine, tree in seconds:
                if number or tree == "part":  # the first round warms caches and does not count
                    taken = _seconds(engine, root / tree, root / "out")
                    seconds[engine, tree] += [taken] if number else []
    rows = [_row(engine, seconds) for engine in ENGINES]
    rate_a_core = rows[0]["images/s"] / CORES
    report("cluster", rows + [paper_row(*case, rate_a_core) for case in _cases()])


def _seconds(engine: str, tree: Path, out: Path) -> float:
    begin = time.perf_counter()
    options = ["--classes", "found", "--unverified", "--workers", str(CORES), *ENGINES[engine]]
    subprocess.run([*COMMAND, str(tree), "--out", str(out), *options], check=True, capture_output=True)
    taken = time.perf_counter() - begin
    shutil.rmtree(out)
    return taken


def _row(engine: str, seconds: dict[tuple[str, str], list[float]]) -> dict[str, Any]:
    rate, start = rate_and_start(seconds[engine, "tree"], seconds[engine, "part"], IMAGES)
    whole = statistics.median(seconds[engine, "tree"])
    base = statistics.median(seconds["local pool", "tree"])
    return {
        "what": f"ingest of {IMAGES} images, {CORES} workers, {engine}",
        "start s": start,
        "units s": whole - start,
        "whole s": whole,
        "images/s": rate,
        "over local": whole / base - 1,
    }


def _cases() -> list[tuple[str, float, int]]:
    return [(what, images, nodes) for what in ("ingest", "predict") for images in (1.28e6, 1e8) for nodes in (1, 8, 64)]


def paper_row(what: str, images: float, nodes: int, ingest_rate_a_core: float) -> dict[str, Any]:
    """Return the estimated hours for `images` images on `nodes` nodes, and the resource that limits the rate first."""
    units = MOST_SHARDS if what == "ingest" else math.ceil(images / PART_ROWS)
    workers = nodes * (NODE_CORES if what == "ingest" else NODE_DEVICES)
    rate_a_worker = ingest_rate_a_core if what == "ingest" else DEVICE_RATE
    rounds = math.ceil(units / workers)  # some workers are idle in the last round
    computing = "cores" if what == "ingest" else "devices"
    limits = {
        "number of units" if units < workers else computing: units / rounds * rate_a_worker,
        "links of the nodes": nodes * NODE_LINK / IMAGE_BYTES,  # both ways at once
        "shared storage": STORAGE / IMAGE_BYTES / (2 if what == "ingest" else 1),  # read and written
    }
    if what == "predict":
        limits["cores that decode"] = nodes * NODE_CORES * DECODE_RATE
    first = min(limits, key=lambda name: limits[name])
    return {
        "what": f"on paper: {what} of {images / 1e6:g} M images, {nodes} nodes",
        "images/s": limits[first],
        "hours": images / limits[first] / 3600,
        "saturates first": first,
    }
