"""`make bench PART=model`: ConvNeXt-T at 224 px, our CPU kernels beside what a user would pick instead.

In float32, and where the processor has it in bfloat16, beside peers in bfloat16 and int8.

Every engine is a process of its own; they take turns, so that the machine's noise hits all of them alike. Passes with
fresh processes keep all engines together within 23 GB: MindSpore's own training step takes 17 GB at batch 32, so it
meets only ours there. Peers come with the extra `bench` and are left out, with a line, where it is not installed.
BENCH_PYTHON names another environment's Python for them, BENCH_ROUNDS another number of rounds than 5.
CONVNEXT_BENCH_BASELINE names an earlier checkout (with its .venv) that takes turns, too; CONVNEXT_BENCH_ONLY is a
regular expression that cases have to match.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import processor
from harness import baseline_script, is_wanted, report

HERE = Path(__file__).resolve().parent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
ENGINES = {
    "ours": "engine_mindspore.py",
    "ours-bfloat16": "engine_mindspore.py",
    "baseline": "engine_mindspore.py",
    "mindspore": "engine_mindspore.py",
    "torch-eager": "engine_torch.py",
    "torch-channels-last": "engine_torch.py",
    "onnxruntime": "engine_torch.py",
    "openvino": "engine_torch.py",
    "torch-bfloat16": "engine_torch.py",
    "openvino-bfloat16": "engine_torch.py",
    "openvino-int8": "engine_torch.py",
    "onnxruntime-int8": "engine_torch.py",
}
TRAINERS = ("ours", "ours-bfloat16", "baseline", "torch-eager", "torch-channels-last", "torch-bfloat16")
PASSES = [  # engines, what, batches
    (tuple(ENGINES), "forward", (1, 8, 32)),
    (("mindspore", *TRAINERS), "train", (8,)),
    (TRAINERS, "train", (32,)),
    (("ours", "mindspore"), "train", (32,)),
]
GIGAFLOP_PER_IMAGE = {"forward": 8.94, "train": 26.8}  # products alone: 4.47 GMAC forward, twice that backward


class Engine:
    """A process that runs one engine and answers with seconds."""

    def __init__(self, name: str) -> None:
        self.words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `close` closes it
        self.process = subprocess.Popen(
            _command(name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words, text=True
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

    def last_words(self) -> str:
        """The last line that the process wrote to standard error."""
        self.words.seek(0)
        return (self.words.read().strip().splitlines() or ["it ran out of memory or was killed"])[-1]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.words.close()


def _command(name: str) -> list[str]:
    script = ENGINES[name]
    if name == "baseline":
        return [*(baseline_script(script) or []), "ours"]
    python = sys.executable if "mindspore" in script else os.environ.get("BENCH_PYTHON", sys.executable)
    return [python, str(HERE / script), name]


def main() -> None:
    """Run, print the table and write bench-out/model.json."""
    rows: dict[tuple[str, int], dict] = {}
    absent = set() if baseline_script(ENGINES["baseline"]) else {"baseline"}
    for engines, what, batches in PASSES:
        names = tuple(name for name in engines if name == "ours" or (name not in absent and is_wanted(name)))
        if names == ("ours",) and all((f"ours {what}", batch) in rows for batch in batches):
            continue
        for row in _pass(names, what, batches):
            rows.setdefault((row["what"], row["batch"]), row)
    print(f"processor: {processor()}")
    report("model", sorted(rows.values(), key=lambda row: (row["what"].split()[1], row["batch"])))


def _pass(names: tuple[str, ...], what: str, batches: tuple[int, ...]) -> list[dict]:
    """The rows of one kind of work, each with the peak memory of its process after the largest batch."""
    engines = {name: Engine(name) for name in names}
    try:
        rows = [row for batch in batches for row in _rows(_medians(engines, what, batch), what, batch)]
        for name, engine in engines.items():
            peak = engine.ask("memory", 0)
            if peak is None:
                print(f"{name} {what}: left out (peers come by pip install '.[bench]'): {engine.last_words()}")
            elif rows_of_engine := [row for row in rows if row["what"] == f"{name} {what}"]:
                rows_of_engine[-1]["peak_mib"] = round(peak)
    finally:
        for engine in engines.values():
            engine.close()
    return rows


def _medians(engines: dict[str, Engine], what: str, batch: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        for name, engine in engines.items():
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
