"""Jobs of tiny Python programs, with a scheduler that only waits, and a look for processes that they left behind."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from convnext_imagenet.launch.ranks import processes
from convnext_imagenet.launch.ranks.launcher import LaunchPlan, run_job
from convnext_imagenet.launch.ranks.rank import Layout

BEGIN = """
import os, signal, subprocess, sys, time
from pathlib import Path
from convnext_imagenet.launch.ranks.heartbeat import own_heartbeat

rank, here, heartbeat = int(os.environ["RANK_ID"]), Path(os.environ["HERE"]), own_heartbeat()

def wait_for(name):
    while not (here / name).exists():
        time.sleep(0.01)
"""


@pytest.fixture
def patient_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that starts at once and waits to be ended; MindSpore's takes seconds to import."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "patience.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")])))
    monkeypatch.setattr(processes, "_SCHEDULER", "patience")
    monkeypatch.setenv("HERE", str(tmp_path))


@pytest.fixture
def nothing_left(patient_scheduler: None) -> Iterator[None]:
    """Fails when a process of the test is still there ten seconds after it, its grandchildren included."""
    before = set(_offspring())
    yield
    for _ in range(200):
        left = [process for process in _offspring() if process not in before]
        if not left:
            return
        time.sleep(0.05)
    commands = [process.cmdline() for process in left]
    for process in left:
        process.kill()
    pytest.fail(f"left behind: {commands}")


def _offspring() -> list[psutil.Process]:
    """What this process has started, and what that has, even where its parent has ended: all with our HERE."""
    found = []
    for process in psutil.process_iter(["environ", "status"]):
        is_alive = process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid()
        if is_alive and (process.info["environ"] or {}).get("HERE") == os.environ["HERE"]:
            found.append(process)
    return found


@dataclass(frozen=True)
class Ended:
    """How a job ended: its exit code, what its launcher said, and its logs."""

    code: int
    said: list[str]
    logs: Path


@pytest.fixture
def run(tmp_path: Path, nothing_left: None) -> Callable[..., Ended]:
    """`run(program, ...)` runs it once a rank; it finds `rank`, `here`, `heartbeat` and `wait_for(name of a file)`."""

    def run_program(
        program: str, devices: int = 2, timeout_s: float = 60, restarts: int = 0, cores: Sequence[int] | None = None
    ) -> Ended:
        said: list[str] = []
        command = [sys.executable, "-c", BEGIN + program]
        own = sorted(os.sched_getaffinity(0))
        plan = LaunchPlan(Layout(devices, "CPU"), command, tmp_path / "logs", cores or own, timeout_s, restarts)
        return Ended(run_job(plan, said.append), said, tmp_path / "logs")

    return run_program
