"""`make bench PART=score`: a folder of full-size JPEGs to finished Parquet with top-5, ConvNeXt-T 224, beside peers.

Float32, random weights, batches of 32, 2 decoding threads or processes, 2 cores. The limit is our network alone on a
ready uint8 tensor. Every case is a process of its own that stays; all take turns, a pass each. In the time of a pass:
the listing of the folder, reading, hashing where a case does it, decoding, resizing, the network, top-5, and the
written Parquet; for ours also plan, receipts and fsync. Outside: the start of a process, imports, the building and
compiling of the network (peers that spawn workers do so in each pass, as they would; Ray's clock starts when its
network is loaded). Memory is the largest sum of resident pages over a case's processes, so shared pages count in each.

The cold rows are the command `convnext-serve predict` from its start to its first finished part of 32 inputs, and to
its end. A peer runs in the first interpreter of CONVNEXT_BENCH_PEERS_PYTHON, a list with colons, that can import what
it needs.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from bench_ingest import lay_out
from harness import HERE, baseline_script, is_wanted, python_with, report
from score_passes import BATCH, TOPK, WORKERS

IMAGES = int(os.environ.get("CONVNEXT_BENCH_IMAGES", "128"))
ROUNDS = int(os.environ.get("CONVNEXT_BENCH_ROUNDS", "5"))
COLD_STARTS = 3
LIMIT = "limit: our network alone"
OURS = "ours: predict"
PEERS = {  # module, its case, what this imports besides psutil and pyarrow
    "timm: DataLoader, PyTorch channels_last": ("score_peers", "timm", "timm"),
    "transformers: image-classification pipeline": ("score_peers", "transformers", "torchvision, transformers"),
    "Ray Data: map_batches, timm": ("score_peers", "ray", "ray.data, timm"),
    "onnxruntime, OpenCV in threads": ("score_exported", "onnxruntime", "cv2, onnx, onnxruntime, timm"),
    "OpenVINO, OpenCV in threads": ("score_exported", "openvino", "cv2, onnx, openvino, timm"),
}
_SAMPLE_S = 0.25
_END_S = 60


@dataclass
class Case:
    """A process that stays and makes a pass when asked; what its counted passes took."""

    process: subprocess.Popen
    log: Path
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    def run(self, is_counted: bool) -> None:
        """Ask for a pass and wait for its end."""
        ask, answer = self.process.stdin, self.process.stdout
        assert ask is not None
        assert answer is not None
        with _peak_memory(self.process.pid) as peaks:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and so does its answer
                ask.write("\n")
                ask.flush()
            for line in answer:
                with contextlib.suppress(ValueError):  # a library that prints
                    rate, cpu_ms = map(float, line.split())
                    break
            else:
                raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}: {_tail(self.log)}")
        self.peak_mib = max(self.peak_mib, *peaks)
        if is_counted:
            self.rates.append(rate)
            self.cpu_ms.append(cpu_ms)

    def close(self) -> None:
        """Let the process end by itself, so that its workers end with it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main() -> None:
    """Run every case in turn, round after round, and report medians."""
    with tempfile.TemporaryDirectory(prefix="bench-score-") as folder:
        root = Path(folder)
        kind, _ = lay_out(root / "tree", IMAGES)
        checkpoint = root / "random.weights.safetensors"
        ours = [sys.executable, str(HERE / "score_ours.py")]
        subprocess.run([*ours, "make", str(checkpoint), "", ""], check=True)
        cases = _cases(root, checkpoint)
        try:
            for what in list(cases):
                _warm_up(what, cases)
            for _ in range(ROUNDS):
                for case in cases.values():
                    case.run(is_counted=True)
        finally:
            for case in cases.values():
                case.close()
        rows = [_row(what, case, cases, kind) for what, case in cases.items()]
        report("score", [*rows, *_cold_rows(root, checkpoint, kind)])


def _cases(root: Path, checkpoint: Path) -> dict[str, Case]:
    images, out = str(root / "tree" / "train"), root / "out"
    commands = {}
    for what, case in ((LIMIT, "limit"), (OURS, "ours")):
        commands[what] = [sys.executable, str(HERE / "score_ours.py"), case, str(checkpoint), images]
    if earlier := baseline_script("score_ours.py"):
        commands[f"baseline {OURS}"] = [*earlier, "ours", str(checkpoint), images]
    for what, (module, case, imports) in PEERS.items():
        if not is_wanted(what):
            continue
        if python := python_with(f"import {module}, psutil, pyarrow, {imports}"):
            commands[what] = [python, str(HERE / f"{module}.py"), case, images]
        else:
            print(f"{what}: {imports} not installed, left out", file=sys.stderr)
    return {what: _started(command, out / str(number)) for number, (what, command) in enumerate(commands.items())}


def _warm_up(what: str, cases: dict[str, Case]) -> None:
    """A pass that does not count; a peer that cannot make it is left out."""
    try:
        cases[what].run(is_counted=False)
    except RuntimeError as error:
        if what in (LIMIT, OURS):
            raise
        cases.pop(what).close()
        print(f"{what}: left out, {error}", file=sys.stderr)


def _started(command: list[str], out: Path) -> Case:
    out.mkdir(parents=True)
    log = out / "log.txt"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    return Case(process, log)


def _row(what: str, case: Case, cases: dict[str, Case], kind: str) -> dict[str, object]:
    rate = statistics.median(case.rates)
    return {
        "what": what,
        "images_per_s": round(rate, 2),
        "ratio_to_limit": round(rate / statistics.median(cases[LIMIT].rates), 3),
        "ratio_to_ours": round(rate / statistics.median(cases[OURS].rates), 3),
        "cpu_ms_per_image": round(statistics.median(case.cpu_ms), 1),
        "peak_rss_mib": round(case.peak_mib),
        "images": IMAGES,
        "kind": kind,
    }


def _cold_rows(root: Path, checkpoint: Path, kind: str) -> list[dict[str, object]]:
    program = str(Path(sys.executable).with_name("convnext-serve"))
    options = ["--topk", str(TOPK), "--batch-size", str(BATCH), "--workers", str(WORKERS)]
    firsts, ends, peaks = [], [], []
    for number in range(COLD_STARTS):
        out = root / f"cold-{number}"
        command = [program, "predict", str(checkpoint), str(root / "tree" / "train"), "--out", str(out), *options]
        first_s, end_s, peak_mib = _cold_start(command, out, root / "cold.txt")
        firsts.append(first_s)
        ends.append(end_s)
        peaks.append(peak_mib)
        shutil.rmtree(out)
    shared = {"peak_rss_mib": round(max(peaks)), "images": IMAGES, "kind": kind}
    return [
        {"what": f"cold: {what}", "seconds": round(statistics.median(seconds), 2), **shared}
        for what, seconds in (("command to first part", firsts), ("command to its end", ends))
    ]


def _cold_start(command: list[str], out: Path, log: Path) -> tuple[float, float, float]:
    """Seconds to the first finished part and to the end, peak memory in MiB."""
    begin, first_s = time.perf_counter(), 0.0
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors)
    with _peak_memory(process.pid) as peaks:
        while process.poll() is None:
            if not first_s and any(out.glob("part-*.parquet")):
                first_s = time.perf_counter() - begin
            time.sleep(0.01)
    if process.returncode or not first_s:
        raise RuntimeError(f"{command} ended with {process.returncode}: {_tail(log)}")
    return first_s, time.perf_counter() - begin, max(peaks)


@contextlib.contextmanager
def _peak_memory(pid: int) -> Iterator[list[float]]:
    """Resident MiB of a process and all below it, sampled until the end of the block."""
    found, is_over = [_resident_mib(pid)], threading.Event()

    def sample() -> None:
        while not is_over.wait(_SAMPLE_S):
            found.append(_resident_mib(pid))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def _resident_mib(pid: int) -> float:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total / (1 << 20)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


if __name__ == "__main__":
    main()
