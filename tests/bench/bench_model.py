"""`make bench PART=model`: ConvNeXt-T at 224 px in float32, our CPU kernels beside what a user would pick instead.

Every engine is a process of its own; they take turns, so that the machine's noise hits all of them alike. Peers come
with the extra `bench` and are left out, with a line, where it is not installed. BENCH_PYTHON names another
environment's Python for them.
"""

import contextlib
import os
import statistics
import subprocess
import sys
from pathlib import Path

from harness import report

HERE = Path(__file__).resolve().parent
ENGINES = {
    "ours": "engine_mindspore.py",
    "mindspore": "engine_mindspore.py",
    "torch-eager": "engine_torch.py",
    "torch-channels-last": "engine_torch.py",
    "onnxruntime": "engine_torch.py",
    "openvino": "engine_torch.py",
}
WORK = [("forward", 1), ("forward", 8), ("forward", 32), ("train", 8), ("train", 32)]
FORWARD_ONLY = {"onnxruntime", "openvino"}
GIGAFLOP_PER_IMAGE = {"forward": 8.94, "train": 26.8}  # products alone: 4.47 GMAC forward, twice that backward


class Engine:
    """A process that runs one engine and answers with seconds."""

    def __init__(self, name: str) -> None:
        script = HERE / ENGINES[name]
        python = sys.executable if "mindspore" in script.name else os.environ.get("BENCH_PYTHON", sys.executable)
        self.process = subprocess.Popen(
            [python, str(script), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, what: str, batch: int) -> float | None:
        """Seconds (or MiB) of one call, None when the engine cannot."""
        if self.process.stdin is None or self.process.stdout is None or self.process.poll() is not None:
            return None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{what} {batch}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                return float(line)
        return None

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    """Run, print the table and write bench-out/model.json."""
    rounds = int(os.environ.get("BENCH_ROUNDS", "5"))
    engines = {name: Engine(name) for name in ENGINES}
    try:
        rows = []
        for what, batch in WORK:
            rows += _rows(_medians(engines, what, batch, rounds), what, batch)
        memory = {name: engine.ask("memory", 0) for name, engine in engines.items()}
    finally:
        for engine in engines.values():
            engine.close()
    for name in ENGINES:
        if memory[name] is None:
            print(f"{name}: left out, it does not start here (pip install '.[bench]')")
    report("model", rows)
    print("peak memory, MiB: " + ", ".join(f"{name} {mib:.0f}" for name, mib in memory.items() if mib is not None))


def _medians(engines: dict[str, Engine], what: str, batch: int, rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {}
    able = {name: engine for name, engine in engines.items() if what == "forward" or name not in FORWARD_ONLY}
    for number in range(rounds + 1):
        for name, engine in able.items():
            seconds = engine.ask(what, batch)
            if seconds is not None and number:  # the first round compiles
                taken.setdefault(name, []).append(seconds)
    return {name: statistics.median(values) for name, values in taken.items()}


def _rows(medians: dict[str, float], what: str, batch: int) -> list[dict]:
    ours = medians["ours"]
    return [
        {
            "what": f"{name} {what}",
            "batch": batch,
            "images_per_s": round(batch / seconds, 3),
            "ratio_to_ours": round(ours / seconds, 3),
            "gflop_per_s": round(batch * GIGAFLOP_PER_IMAGE[what] / seconds, 1),
        }
        for name, seconds in medians.items()
    ]
