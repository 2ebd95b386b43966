"""`make bench PART=ingest`: fully verified ingest of full-size JPEGs with 2 workers, compared with its limit and peers.

The limit is only the check of every image and SHA-256 in two warm processes; a second one decodes all pixels instead.
Every other case runs as a separate program, from start to finished data set, for all images and for a part of them.
`sustained` is the rate of the others, because starting workers, importing MindSpore and drawing the pictures of the
report do not matter for 1.3 million images; `start` is what remains. The time of a build of ten images is measured by
`make bench-compare`. CPU seconds count all processes of a case, so they stay comparable when something else runs here.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import peers_ingest as peers
from harness import baseline_bin, is_wanted, python_with, report
from limit_ingest import check_and_hash, decode_and_hash

IMAGES = int(os.environ.get("CONVNEXT_BENCH_IMAGES", "4000"))
ROUNDS = int(os.environ.get("CONVNEXT_BENCH_ROUNDS", "3"))
WORKERS = 2
PART = 2_000  # enough for as many processes as all images get: fewer are started otherwise
CLASSES = 20
LIMIT = "limit: every coefficient + sha256, 2 processes"
FULL_DECODE = "full decode by OpenCV + sha256, 2 processes"
OURS = "convnext-ingest build, 2 workers"


@dataclass
class Timed:
    """A case: `run(tree)` does the work for the images of a tree; lists have the seconds of each counted round.

    `wall` and `cpu` are for all images, `part_wall` for a part of them.
    """

    what: str
    run: Callable[[Path], object]
    wall: list[float]
    cpu: list[float]
    part_wall: list[float]


def main() -> None:
    """Run all cases in turns, several rounds, and report medians."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder,
        ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool,
    ):
        root = Path(folder)
        tree, part = root / "tree", root / "part"
        kind, size = lay_out(tree, IMAGES)
        lay_out(part, PART)
        cases = list(_cases(root, pool))
        for number in range(ROUNDS + 1):
            for case in cases:
                _round(case, tree, part, is_counted=number > 0)  # the first round warms the page cache
        print(f"{IMAGES} images ({kind}), {size / IMAGES / 1e3:.0f} kB on average, {WORKERS} workers")
        report("ingest", _rows(cases, kind, size))


def lay_out(tree: Path, images: int) -> tuple[str, int]:
    """Make class folders with `images` full-size JPEGs (linked, copied or drawn); return kind and size in bytes."""
    sources = _full_size_images() or _made_images(tree.parent / "made")
    size = 0
    for number in range(images + CLASSES):
        split, label = ("train" if number < images else "val"), number % CLASSES
        folder = tree / split / f"n{label:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        source = sources[number % len(sources)]
        target = folder / f"n{label:08d}_{number}.JPEG"
        try:
            target.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, target)
        size += target.stat().st_size if number < images else 0
    return ("research images" if _full_size_images() else "made images"), size


def _full_size_images() -> list[Path]:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CONVNEXT_SHARED_DATA", default)) / "fullsize" / "train"
    return sorted(folder.glob("*/*.JPEG"))


def _made_images(folder: Path) -> list[Path]:
    import cv2
    import numpy as np

    if not folder.is_dir():
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number in range(100):
            coarse = rng.integers(0, 256, (94, 125, 3), dtype=np.uint8)
            pixels = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / f"{number}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 93])
    return sorted(folder.iterdir())


def _cases(root: Path, pool: ProcessPoolExecutor) -> Iterator[Timed]:
    yield Timed(LIMIT, lambda tree: _limit(pool, tree, check_and_hash), [], [], [])
    yield Timed(FULL_DECODE, lambda tree: _limit(pool, tree, decode_and_hash), [], [], [])
    yield Timed(OURS, lambda tree: _build(tree, root / "records", Path(sys.executable).parent), [], [], [])
    if earlier := baseline_bin():
        yield Timed(f"baseline {OURS}", lambda tree: _build(tree, root / "records", earlier), [], [], [])
    for name, program in peers.PROGRAMS.items():
        if not is_wanted(name):
            continue
        python = sys.executable if name in peers.WITH_MINDSPORE else python_with(peers.IMPORTS[name])
        if python is None:
            print(f"{name}: skipped, not installed", file=sys.stderr)
            continue
        yield Timed(name, lambda tree, p=program, py=python: _peer(py, p, tree, root / "peer"), [], [], [])


def _limit(pool: ProcessPoolExecutor, tree: Path, work: Callable[[str], bytes]) -> None:
    paths = sorted(str(path) for path in (tree / "train").rglob("*.JPEG"))
    for _ in pool.map(work, paths, chunksize=64):
        pass


def _build(tree: Path, out: Path, commands: Path) -> None:
    program = commands / "convnext-ingest"
    options = ["--unverified", "--classes", "found", "--workers", str(WORKERS)]
    _run([str(program), "build", str(tree), "--out", str(out), *options], out)


def _peer(python: str, program: str, tree: Path, out: Path) -> None:
    script = out.with_name("peer.py")  # a file, because spawned workers cannot import a program given by -c
    script.write_text(program)
    _run([python, str(script), str(tree / "train"), str(out), str(WORKERS)], out)


def _run(command: list[str], out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")


def _round(case: Timed, tree: Path, part: Path, is_counted: bool) -> None:
    begin, cpu = time.perf_counter(), _cpu_seconds()
    case.run(tree)
    wall, used = time.perf_counter() - begin, _cpu_seconds() - cpu
    begin = time.perf_counter()
    case.run(part)
    part_wall = time.perf_counter() - begin
    if is_counted:
        case.wall.append(wall)
        case.cpu.append(used)
        case.part_wall.append(part_wall)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and all its children, including the living ones of the limit."""
    ended = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    tick = os.sysconf("SC_CLK_TCK")
    living = 0
    for path in Path("/proc/self/task").glob("*/children"):
        for child in path.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            living += int(fields[11]) + int(fields[12])
    return sum(usage.ru_utime + usage.ru_stime for usage in ended) + living / tick


def _rows(cases: list[Timed], kind: str, size: int) -> list[dict[str, Any]]:
    """Return one row for each case; the ratios compare sustained rates."""
    fits = {case.what: rate_and_start(case.wall, case.part_wall, IMAGES) for case in cases}
    rates = {what: rate for what, (rate, _) in fits.items()}
    return [
        {
            "what": case.what,
            "images_per_s": round(IMAGES / statistics.median(case.wall), 1),
            "sustained_images_per_s": round(rates[case.what], 1),
            "ratio_to_ours": round(rates[case.what] / rates[OURS], 3),
            "ratio_to_limit": round(rates[case.what] / rates[LIMIT], 3),
            "ratio_to_full_decode": round(rates[case.what] / rates[FULL_DECODE], 3),
            "start_s": round(fits[case.what][1], 2),
            "cpu_ms_per_image": round(1e3 * statistics.median(case.cpu) / IMAGES, 3),
            "images": IMAGES,
            "kind": kind,
            "megabytes": round(size / 1e6),
        }
        for case in cases
    ]


def rate_and_start(wall: list[float], part_wall: list[float], images: int) -> tuple[float, float]:
    """Return images/s, and the seconds of the start, from the seconds for all images and for PART of them."""
    whole, part = statistics.median(wall), statistics.median(part_wall)
    rate = (images - PART) / max(whole - part, 1e-9)
    return rate, part - PART / rate
