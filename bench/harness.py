"""Rates that can be compared: every case in turn, round after round, and the median of each.

The machine may be shared and noisy, so a rate means something only beside another one of the same run.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from figures import commit_of, keep

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "bench-out"
ONLY = re.compile(os.environ.get("CONVNEXT_BENCH_ONLY", ""))
PEERS_PYTHONS = os.environ.get("CONVNEXT_BENCH_PEERS_PYTHON", sys.executable).split(os.pathsep)


@dataclass(frozen=True)
class Case:
    """A thing to time: `run` does the work once, `images` says how many images that is; `facts` go into the report."""

    what: str
    images: int
    run: Callable[[], object]
    facts: Mapping[str, Any]


def interleaved_rates(cases: list[Case], rounds: int) -> list[float]:
    """The median images/s of each case over `rounds` rounds, after one run of each that does not count."""
    for case in cases:
        case.run()
    seconds: list[list[float]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, taken in zip(cases, seconds, strict=True):
            begin = time.perf_counter()
            case.run()
            taken.append(time.perf_counter() - begin)
    return [case.images / statistics.median(taken) for case, taken in zip(cases, seconds, strict=True)]


def is_wanted(what: str) -> bool:
    """True unless CONVNEXT_BENCH_ONLY, a regular expression, leaves the case out."""
    return ONLY.search(what) is not None


def baseline_bin() -> Path | None:
    """The commands of the checkout that CONVNEXT_BENCH_BASELINE names; it takes turns with this one."""
    root = os.environ.get("CONVNEXT_BENCH_BASELINE")
    return Path(root).resolve() / ".venv" / "bin" if root else None


def baseline_script(name: str) -> list[str] | None:
    """The command that runs the earlier checkout's own `name`, a script of its benchmarks; None without a baseline."""
    found = baseline_bin()
    if found is None:
        return None
    folders = (found.parent.parent / "bench", found.parent.parent / "tests" / "bench")
    script = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if script is None:
        raise FileNotFoundError(f"{folders[0]}: holds no {name}; CONVNEXT_BENCH_BASELINE names a checkout with .venv")
    return [str(found / "python"), str(script)]


@cache
def python_with(imports: str) -> str | None:
    """The first of the peers' interpreters that runs these import statements, in this folder, without an error."""
    for python in PEERS_PYTHONS:
        if not subprocess.run([python, "-c", imports], cwd=HERE, capture_output=True, check=False).returncode:
            return python
    return None


def report(part: str, rows: list[dict[str, Any]]) -> Path:
    """Print the rows as a table and write them to `bench-out/PART.json`; returns the path."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = [columns, *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[k]) for line in table) for k in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{part}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    if os.environ.get("CONVNEXT_BENCH_KEEP"):
        keep(part, commit_of(), rows)
    print(f"{path.relative_to(OUT.parent)}: {len(rows)} rows; {platform.machine()}, {os.cpu_count()} cores")
    return path


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
