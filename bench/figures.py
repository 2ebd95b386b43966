"""What is kept of a benchmark: a line in `history/PART.jsonl` with date, commit, processor and rows of figures."""

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext_imagenet.base.host import processor_flags

ROOT = Path(__file__).resolve().parent.parent
HISTORY = Path(__file__).resolve().parent / "history"
_VECTORS, _LOW_PRECISION = ("avx2", "avx512f"), ("avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def keep(part: str, commit: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add a line to the history of a part; figures keep four digits."""
    HISTORY.mkdir(exist_ok=True)
    kept = [{name: _rounded(value) for name, value in row.items()} for row in rows]
    line = {"date": datetime.date.today().isoformat(), "commit": commit, "processor": processor(), "rows": kept}
    with (HISTORY / f"{part}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def processor() -> str:
    """Return the processor as Linux names it, the instructions that decide its speed, and the cores of this process."""
    vectors = [flag for flag in _VECTORS if flag in processor_flags()]
    instructions = [*vectors, *low_precision_flags()] or ["no AVX2"]
    return f"{_model_name()} ({', '.join(instructions)}), {len(os.sched_getaffinity(0))} cores"


def low_precision_flags() -> list[str]:
    """Return the low-precision instructions that the processor has, as Linux names them."""
    return [flag for flag in _LOW_PRECISION if flag in processor_flags()]


def commit_of(name: str = "WORK") -> str:
    """Return the short hash of a commit, or of HEAD with + for a changed working tree."""
    if name != "WORK":
        return git("rev-parse", "--short", name)
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)


def git(*words: str) -> str:
    """Return what a git command prints. Raises SystemExit when it fails."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Error: git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _model_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
