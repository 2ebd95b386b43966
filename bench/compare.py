"""`make bench-compare A=COMMIT B=COMMIT`: everyday commands of two commits in turns, and what got slower.

Each commit is checked out beside this one and run by this environment's Python, so both have the same libraries. Both
wall time and processor time are taken; on a crowded machine only the second can be trusted.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import ROOT, commit_of, git, keep

_LEAST_GROWTH = 0.03  # a few rounds have a small spread by chance
ROOMS = ("base", "records", "model", "launch", "ingest", "serve", "train")
# Names of the cases and what they run: the module of a command, then its words. WORK is a folder with ten images.
CASES: dict[str, list[str]] = {
    "ingest --help": ["ingest", "--help"],
    "records --help": ["records", "--help"],
    "serve predict --help": ["serve", "predict", "--help"],
    "train run --help": ["train", "run", "--help"],
    "build of ten images": ["ingest", "build", "WORK/raw", "--out", "NEW", "--unverified", "--classes", "found"],
    "show": ["records", "show", "WORK/records"],
    "peek": ["records", "peek", "WORK/records"],
    "plot": ["train", "plot", "WORK/run"],
    "train for one epoch": [
        *("train", "run", "demo", "--records", "WORK/records", "--out", "NEW", "--device-target", "CPU"),
        *("--set", "data.global_batch_size=4", "--set", "train.epochs=1", "--set", "schedule.warmup_epochs=0"),
    ],
    "predict of ten images": ["serve", "predict", "WORK/trained", "WORK/raw", "--out", "NEW", "--device-target", "CPU"],
}


@dataclass(frozen=True)
class Sample:
    """The seconds of one call: on the clock, and of all its processes together."""

    wall_s: float
    cpu_s: float


def spread(values: Sequence[float]) -> float:
    """Return the distance between the quartiles; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return high - low


def is_slower(before: Sequence[float], after: Sequence[float]) -> bool:
    """Return whether the median grew by more than the larger spread of the two, and by 3 % at least."""
    old, new = statistics.median(before), statistics.median(after)
    return new - old > max(spread(before), spread(after), _LEAST_GROWTH * old)


def main(arguments: list[str]) -> int:
    """Compare two commits; 1 if anything got slower in processor time."""
    parser = argparse.ArgumentParser(prog="make bench-compare")
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", help="another one, or WORK for the working tree")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="part of the names of the cases to run")
    parser.add_argument("--keep", action="store_true", help="add a line to bench/history/everyday.jsonl")
    options = parser.parse_args(arguments)
    names, commit = (options.before, options.after), commit_of(options.after)  # HEAD may move meanwhile
    with tempfile.TemporaryDirectory(prefix="convnext-compare-") as folder, checkouts(names, Path(folder)) as sites:
        work = Path(folder) / "work"
        make_work(work, sites[-1])
        rows = compare(sites, work, options.rounds, options.only)
    slower = [row["case"] for row in rows if row["slower"]]
    print_rows(names, rows)
    if options.keep:
        keep("everyday", commit, rows)
    print(f"slower: {', '.join(slower)}" if slower else "nothing got slower by more than its spread")
    return int(bool(slower))


def compare(sites: Sequence[Path], work: Path, rounds: int, only: str) -> list[dict[str, Any]]:
    """Return a row for each case: medians and spreads of both commits, which take turns."""
    rows = []
    for name, words in CASES.items():
        if only not in name:
            continue
        taken: list[list[Sample]] = [[] for _ in sites]
        for turn in range(rounds + 1):  # the first round fills the caches of the system, and does not count
            for site, samples in zip(sites, taken, strict=True):
                sample = timed(site, words, work)
                samples += [sample] if turn else []
        cpu_s = [[sample.cpu_s for sample in samples] for samples in taken]
        wall_s = [[sample.wall_s for sample in samples] for samples in taken]
        rows.append(
            {
                "case": name,
                "before_cpu_s": statistics.median(cpu_s[0]),
                "after_cpu_s": statistics.median(cpu_s[1]),
                "spread_cpu_s": max(map(spread, cpu_s)),
                "before_wall_s": statistics.median(wall_s[0]),
                "after_wall_s": statistics.median(wall_s[1]),
                "slower": is_slower(*cpu_s),
            }
        )
    return rows


def timed(site: Path, words: list[str], work: Path) -> Sample:
    """Return the time of one call. Raises SystemExit when it fails."""
    new = work / "new"
    shutil.rmtree(new, ignore_errors=True)
    room, *rest = (word.replace("WORK", str(work)).replace("NEW", str(new)) for word in words)
    script = f"from convnext_imagenet.{room}.cli import main; main()"
    before, begin = os.times(), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": ""}  # compiled, as for users
    command = [sys.executable, "-c", script, *rest]
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
    wall_s, after = time.perf_counter() - begin, os.times()
    if done.returncode:
        raise SystemExit(f"Error: {' '.join(words)} of {site.name} ends with {done.returncode}:\n{done.stderr[-2000:]}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Sample(wall_s, cpu_s)


@contextmanager
def checkouts(names: Sequence[str], folder: Path) -> Iterator[list[Path]]:
    """Yield a folder for each commit from which Python imports its `convnext_imagenet`."""
    sites, trees = [], []
    try:
        for number, name in enumerate(names):
            tree = ROOT
            if name != "WORK":
                tree = folder / f"tree-{number}"
                git("worktree", "add", "--detach", str(tree), name)
                trees.append(tree)
            site = folder / f"site-{number}"
            (site / "convnext_imagenet").mkdir(parents=True)
            for room in ROOMS:
                (site / "convnext_imagenet" / room).symlink_to(tree / room)
            sites.append(site)
        yield sites
    finally:
        for tree in trees:
            git("worktree", "remove", "--force", str(tree))


def make_work(work: Path, site: Path) -> None:
    """Make ten images, RECORDS of them, a RUN on these, and the metrics of another."""
    from PIL import Image

    for number in range(10):
        path = work / "raw" / ("val" if number > 7 else "train") / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 120), (number * 20, 0, 0)).save(path)
    timed(site, CASES["build of ten images"], work)
    (work / "new").rename(work / "records")
    timed(site, CASES["train for one epoch"], work)
    (work / "new").rename(work / "trained")
    (work / "run").mkdir()
    line = {"epoch": 1, "step": 3, "train_loss": 2.0, "val_top1": 0.1, "val_loss": 1.0}
    (work / "run" / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def print_rows(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Print the comparison as a table, in seconds."""
    print(f"processor seconds, in brackets seconds on the clock: {names[0]} -> {names[1]}")
    for row in rows:
        before = f"{row['before_cpu_s']:.2f} ({row['before_wall_s']:.2f})"
        after = f"{row['after_cpu_s']:.2f} ({row['after_wall_s']:.2f})"
        print(f"  {row['case']:22} {before} -> {after}, spread {row['spread_cpu_s']:.2f}{'  SLOWER' * row['slower']}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
