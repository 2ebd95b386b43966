"""`python bench/speedrun/measure.py RUN...`: the mean top-1 and the mean minutes of finished runs, a seed each."""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

GOAL, SEEDS = 0.65, 5


def read_run(run: Path) -> tuple[float, float]:
    """Return best top-1 (of weights or average) and minutes of a run. Raises SystemExit unless it is finished."""
    if not (run / "_SUCCESS").is_file():
        raise SystemExit(f"Error: {run}: not finished; run the same command again")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scores = [line[key] for line in lines for key in ("val_top1", "ema_val_top1") if line.get(key) is not None]
    seconds = sum(line["compile_s"] + line["train_s"] + line["eval_s"] for line in lines)
    return max(scores), seconds / 60


def summary(results: Sequence[tuple[float, float]]) -> str:
    """Return the line that says whether the goal is reached."""
    top1, minutes = (statistics.mean(values) for values in zip(*results, strict=True))
    is_record = top1 >= GOAL and len(results) >= SEEDS
    state = "counts" if is_record else f"does not count: {GOAL:.0%} as the mean of {SEEDS} seeds is asked"
    return f"{len(results)} runs: top-1 {top1:.2%}, {minutes:.1f} minutes; {state}"


if __name__ == "__main__":
    found = [read_run(Path(name)) for name in sys.argv[1:]]
    if not found:
        raise SystemExit("usage: python bench/speedrun/measure.py RUN...")
    for name, (top1, minutes) in zip(sys.argv[1:], found, strict=True):
        print(f"{name}: top-1 {top1:.2%}, {minutes:.1f} minutes")
    print(summary(found))
