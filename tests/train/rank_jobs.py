"""Jobs of two ranks as a user starts them, in processes of their own, and a look for what they left behind."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.numpy

from convnext_imagenet.train.run.epoch import read_metrics

needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two ranks on the CPU need two cores")

# The command line with a fault in step STEP of rank 1: it raises, differs, gets a signal, or has the launcher get one.
FAULTY = """
import os, signal, time
from convnext_imagenet.train import cli
from convnext_imagenet.train.step.learner import Learner

kind, step = os.environ["FAULT"], int(os.environ["STEP"])
learn, calls = Learner.learn, []

def learn_or_fail(self, *inputs):
    calls.append(1)
    if len(calls) == step and os.environ.get("RANK_ID") == "1":
        if kind == "raise":
            raise ValueError("a fault of rank 1")
        if kind == "differ":
            bias = self.parameters["head.bias"]
            bias.set_data(bias + 1e-6)
            return learn(self, *inputs)
        if kind.startswith("launcher "):
            os.kill(os.getppid(), getattr(signal, kind.removeprefix("launcher ")))
            time.sleep(2)
        else:
            os.kill(os.getpid(), getattr(signal, kind))
    return learn(self, *inputs)

Learner.learn = learn_or_fail
cli.main()
"""
SECONDS = 240


class Job:
    """A command in the background; `wait` checks that nothing of it is left."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        self.seen: dict[int, psutil.Process] = {}

    def ranks(self) -> dict[int, psutil.Process]:
        """The processes of the ranks that run now."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.Error):
                    self.seen[child.pid] = child
                    environment = child.environ()
                    if environment.get("MS_ROLE") == "MS_WORKER":
                        found[int(environment["RANK_ID"])] = child
        return found

    def wait(self) -> tuple[int, str, float]:
        """The exit code, what was said, and how many seconds the end took."""
        begin = time.monotonic()
        while self.process.poll() is None and time.monotonic() - begin < SECONDS:
            self.ranks()
            time.sleep(0.2)
        seconds = time.monotonic() - begin
        self.process.kill()
        out, err = self.process.communicate()
        _, alive = psutil.wait_procs(self.seen.values(), timeout=3)
        left = [process.cmdline() for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        for process in alive:
            process.kill()
        assert not left
        return self.process.returncode, out + err, seconds


def train_command(
    records: Path, run: Path, tiny: tuple[str, ...], devices: int, script: Path | None = None
) -> list[str]:
    """The words that train the paper's preset with the tiny values."""
    overrides = [word for override in tiny for word in ("--set", override)]
    words = ["run", "paper-tiny", "--records", str(records), "--out", str(run), "--devices", str(devices)]
    program = script or Path(sys.executable).with_name("convnext-train")
    return [sys.executable, str(program), *words, *overrides, "--workers", "1"]


def arrays(run: Path) -> dict[str, np.ndarray]:
    files = sorted((run / "checkpoints").glob("epoch-0004.*.safetensors"))
    assert len(files) == 3
    return {name: array for file in files for name, array in safetensors.numpy.load_file(file).items()}


def assert_same_bits(run: Path, expected: Path) -> None:
    found = arrays(run)
    for name, value in arrays(expected).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_close(run: Path, expected: Path) -> None:
    """Sums over ranks are added in another order: each parameter moves by far less than one step of 0.002."""
    found = arrays(run)
    for name, value in arrays(expected).items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    for one, other in zip(read_metrics(run / "metrics.jsonl"), read_metrics(expected / "metrics.jsonl"), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert [one[key] for key in ("step", "train_top1", "val_rows")] == [
            other[key] for key in ("step", "train_top1", "val_rows")
        ]


def wait_for_step(run: Path, job: Job, step: int) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < SECONDS and job.process.poll() is None:
        job.ranks()
        with contextlib.suppress(OSError, ValueError):
            unit = (run / "last").read_text().strip()
            steps = int(unit[5:]) if unit.startswith("step-") else 4 * int(unit[6:])
            if steps >= step:
                return
        time.sleep(0.05)
