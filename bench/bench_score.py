"""`make bench PART=score`: a folder of full-size JPEGs to finished Parquet with top-5, ConvNeXt-T 224, beside peers.

Float32, random weights, batches of 32, 2 decoding threads or processes, 2 cores; where the processor has bfloat16
products, ours also with them. The limit is only our network, on a ready uint8 tensor. Every case is a process that
stays; the cases take turns, one pass each. The time of a pass includes listing the folder, reading, hashing if a case
does it, decoding, resizing, the network, top-5 and writing Parquet; for ours also plan, receipts and fsync. It
excludes starting the process, imports, and building and compiling the network. Peers that spawn workers do so in each
pass, as in normal use; Ray's clock starts when its network is loaded. Memory is the largest sum of resident pages
over a case's processes, so shared pages count once for each process.

The cold rows time the command `convnext-serve predict` from its start to its first finished part of 32 inputs, and to
its end. A peer runs in the first interpreter of CONVNEXT_BENCH_PEERS_PYTHON, a list separated by colons, that can
import what the peer needs.
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
from figures import low_precision_flags, processor
from harness import HERE, baseline_script, is_wanted, python_with, report
from score_passes import BATCH, TOPK, WORKERS

IMAGES = int(os.environ.get("CONVNEXT_BENCH_IMAGES", "128"))
ROUNDS = int(os.environ.get("CONVNEXT_BENCH_ROUNDS", "5"))
COLD_STARTS = 3  # of which the median is reported
LIMIT = "limit: our network alone"
OURS = "ours: predict"
LOW = " bfloat16"
PEERS = {  # module, its case, what the case imports besides psutil and pyarrow
    "timm: DataLoader, PyTorch channels_last": ("score_peers", "timm", "timm"),
    "transformers: image-classification pipeline": ("score_peers", "transformers", "torchvision, transformers"),
    "Ray Data: map_batches, timm": ("score_peers", "ray", "ray.data, timm"),
    "onnxruntime, OpenCV in threads": ("score_exported", "onnxruntime", "cv2, onnx, onnxruntime, timm"),
    "OpenVINO, OpenCV in threads": ("score_exported", "openvino", "cv2, onnx, openvino, timm"),
}
_SAMPLE_S = 0.25  # between two looks at the memory
_END_S = 60  # for a case to end by itself: Ray takes seconds to shut down


@dataclass
class Case:
    """A process that stays and makes a pass when asked, with the results of its counted passes."""

    process: subprocess.Popen
    log: Path
    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    def run(self, is_counted: bool) -> None:
        """Ask for a pass and wait for its end. Raises RuntimeError when the process ends instead."""
        ask, answer = self.process.stdin, self.process.stdout
        assert ask is not None
        assert answer is not None
        with _peak_memory(self.process.pid) as peaks:
            with contextlib.suppress(BrokenPipeError):  # it has ended: reading its answer reports that
                ask.write("\n")
                ask.flush()
            for line in answer:
                with contextlib.suppress(ValueError):  # a line that a library printed
                    rate, cpu_ms = map(float, line.split())
                    break
            else:
                raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}: {_tail(self.log)}")
        self.peak_mib = max(self.peak_mib, *peaks)
        if is_counted:
            self.rates.append(rate)
            self.cpu_ms.append(cpu_ms)

    def close(self) -> None:
        """Let the process end by itself, so that its workers end, too; kill it after a minute."""
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
        print(f"processor: {processor()}")
        report("score", [*rows, *_cold_rows(root, checkpoint, kind)])


def _cases(root: Path, checkpoint: Path) -> dict[str, Case]:
    images, out = str(root / "tree" / "train"), root / "out"
    commands = {}
    for suffix in ("", LOW) if any("bf16" in flag for flag in low_precision_flags()) else ("",):
        for what, case in ((LIMIT, "limit"), (OURS, "ours")):
            script = [sys.executable, str(HERE / "score_ours.py")]
            commands[what + suffix] = [*script, case + suffix, str(checkpoint), images]
    if earlier := baseline_script("score_ours.py"):
        commands[f"baseline {OURS}"] = [*earlier, "ours", str(checkpoint), images]
    for what, (module, case, imports) in PEERS.items():
        if not is_wanted(what):
            continue
        if python := python_with(f"import {module}, psutil, pyarrow, {imports}"):
            commands[what] = [python, str(HERE / f"{module}.py"), case, images]
        else:
            print(f"{what}: skipped, {imports} not installed", file=sys.stderr)
    return {what: _started(command, out / str(number)) for number, (what, command) in enumerate(commands.items())}


def _warm_up(what: str, cases: dict[str, Case]) -> None:
    """Make a pass that does not count; skip a peer that fails."""
    try:
        cases[what].run(is_counted=False)
    except RuntimeError as error:
        if what.removesuffix(LOW) in (LIMIT, OURS):
            raise
        cases.pop(what).close()
        print(f"{what}: skipped, {error}", file=sys.stderr)


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
    limit = LIMIT + LOW if what.endswith(LOW) else LIMIT
    return {
        "what": what,
        "images_per_s": round(rate, 2),
        "ratio_to_limit": round(rate / statistics.median(cases[limit].rates), 3),
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
    """Return seconds to the first finished part, seconds to the end, peak memory in MiB."""
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
    """Yield a list of the resident MiB of a process and its children, sampled until the end of the block."""
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
