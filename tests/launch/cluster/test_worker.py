"""Workers and their tally as plain objects: counts, attempts given up, and cores that no two workers share."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convnext_imagenet.launch.cluster.nodes import software_here
from convnext_imagenet.launch.cluster.worker import ProgressTally, Worker, take_cores
from convnext_imagenet.launch.errors import LaunchError


def test_the_tally_listens_to_the_last_attempt_alone():
    tally = ProgressTally()
    tally.report(3, 0, 10)
    tally.report(3, 1, 2)
    tally.report(3, 0, 11)
    tally.report(4, 0, 5)
    assert tally.read() == {3: 2, 4: 5}
    tally.drop(3)
    tally.drop(7)
    assert tally.read() == {4: 5}


class _RemoteTally:
    """A tally that is told through `.remote`, as an actor is."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, int, int]] = []
        self.report = self

    def remote(self, *values: int) -> None:
        self.reports.append(values)  # type: ignore[arg-type]


def test_a_worker_counts_all_inputs_and_tells_of_them_now_and_then(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 2)
    tally, worker = _RemoteTally(), Worker()
    worker.set_up(software_here(), tally, 0, "/")

    def unit(task: str, on_progress) -> None:
        assert task == "task"
        for _ in range(10):
            on_progress(2)

    assert worker.run_unit(unit, "task", 5, 1) == 20
    assert 2 <= len(tally.reports) <= 5
    assert all((unit, attempt) == (5, 1) for unit, attempt, _ in tally.reports)


def test_a_worker_on_a_node_without_the_output_folder_does_not_open(tmp_path):
    with pytest.raises(LaunchError, match="does not see the output folder"):
        Worker().set_up(software_here(), None, 0, str(tmp_path / "not mounted"))


def test_a_worker_on_a_node_of_other_software_does_not_open():
    with pytest.raises(LaunchError, match="numpy"):
        Worker().set_up({**software_here(), "numpy": "2.0"}, None, 0, "/")


HOLD = """
import os, sys
from pathlib import Path
from convnext_imagenet.launch.cluster.worker import take_cores
held = take_cores(1, Path(sys.argv[1]))
print(sorted(os.sched_getaffinity(0)), held is not None, flush=True)
sys.stdin.read()
"""


def test_no_two_processes_keep_to_the_same_cores_and_a_dead_one_gives_them_back(tmp_path: Path):
    cores = sorted(os.sched_getaffinity(0))
    script = tmp_path / "hold.py"
    script.write_text(HOLD)

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout
        return process, process.stdout.readline().strip()

    started = [start() for _ in cores]
    late = None
    try:
        assert [line for _, line in started] == [f"[{core}] True" for core in cores]
        late, line = start()
        assert line == f"{cores} False", "with no core left a process keeps them all"
        started[0][0].kill()
        started[0][0].wait()
        assert take_cores(len(cores) + 1, tmp_path) is None
        again, line = start()
        started.append((again, line))
        assert line == f"[{cores[0]}] True"
    finally:
        for process in [*(process for process, _ in started), *([late] if late else [])]:
            process.kill()
            process.wait()
