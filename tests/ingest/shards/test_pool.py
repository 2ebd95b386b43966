"""Work over processes: everything is done and counted, and nothing survives a stop."""

import concurrent.futures
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from convnext_imagenet.base.errors import Interrupted
from convnext_imagenet.base.signals import interruptible
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.shards.pool import LocalPool, run_units

JOBS = """
import os, pathlib, signal, time

def touch(path, advance):
    advance(2)
    pathlib.Path(path).touch()
    advance(1)

def fail_at_third(path, advance):
    if path.endswith("2"):
        raise ValueError(path)
    time.sleep(0.05)

def die(path, advance):
    os.kill(os.getpid(), signal.SIGKILL)

def note_pid_and_sleep(path, advance):
    pathlib.Path(path).write_text(str(os.getpid()))
    time.sleep(60)

def blocked_signals(path, advance):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    pathlib.Path(path).write_text(str(signal.SIGINT in blocked))
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that worker processes can import."""
    (tmp_path / "ingest_pool_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("ingest_pool_jobs", None)
    return importlib.import_module("ingest_pool_jobs")


def _paths(tmp_path: Path, count: int) -> list[str]:
    return [str(tmp_path / f"unit{number}") for number in range(count)]


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_for(is_true, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_unit_is_done_and_counted(jobs, tmp_path: Path, workers: int):
    told: list[int] = []
    paths = _paths(tmp_path, 7)
    units: list[int] = []
    LocalPool(workers).run(jobs.touch, iter(paths), 7, told.append, lambda: units.append(1))
    assert all(Path(path).exists() for path in paths)
    assert sum(told) == 21
    assert len(units) == 7
    assert multiprocessing.active_children() == []


def test_units_left_are_drawn_when_all_others_end_at_once(jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wait = concurrent.futures.wait
    monkeypatch.setattr(concurrent.futures, "wait", lambda futures, timeout, return_when: wait(futures))
    paths = _paths(tmp_path, 7)
    run_units(jobs.touch, iter(paths), 7, 1, lambda count: None)
    assert all(Path(path).exists() for path in paths)


def test_no_units_start_no_process(jobs):
    run_units(jobs.die, iter(()), 0, 2, lambda count: None)


def test_units_are_drawn_as_workers_take_them(jobs, tmp_path: Path):
    drawn: list[str] = []

    def draw():
        for path in _paths(tmp_path, 20):
            drawn.append(path)
            yield path

    with pytest.raises(ValueError, match="unit2"):
        run_units(jobs.fail_at_third, draw(), 20, 1, lambda count: None)
    assert len(drawn) < 8


def test_dead_worker_is_an_error_that_says_how_to_go_on(jobs, tmp_path: Path):
    with pytest.raises(IngestError, match=r"a worker process died .* run the same command again"):
        run_units(jobs.die, iter(_paths(tmp_path, 3)), 3, 2, lambda count: None)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_workers_at_once(jobs, tmp_path: Path, number: signal.Signals):
    paths = _paths(tmp_path, 2)

    def interrupt() -> None:
        _wait_for(lambda: all(Path(path).exists() and Path(path).read_text() for path in paths))
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=interrupt)
    thread.start()
    started = time.monotonic()
    with pytest.raises(Interrupted, match="run the same command again"), interruptible():
        run_units(jobs.note_pid_and_sleep, iter(paths), 2, 2, lambda count: None)
    thread.join()
    assert time.monotonic() - started < 20
    assert not any(_is_alive(int(Path(path).read_text())) for path in paths)
    assert signal.getsignal(number) == before


def test_workers_never_see_a_ctrl_c(jobs, tmp_path: Path):
    run_units(jobs.blocked_signals, iter(_paths(tmp_path, 1)), 1, 1, lambda count: None)
    assert (tmp_path / "unit0").read_text() == "True"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_end_with_a_killed_parent(jobs, tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, ingest_pool_jobs as jobs\n"
        "from convnext_imagenet.ingest.shards.pool import run_units\n"
        "if __name__ == '__main__':\n"
        "    run_units(jobs.note_pid_and_sleep, iter(sys.argv[1:]), 2, 2, lambda count: None)\n"
    )
    paths = [Path(path) for path in _paths(tmp_path, 2)]
    parent = subprocess.Popen(
        [sys.executable, str(script), *map(str, paths)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    _wait_for(lambda: all(path.exists() and path.read_text() for path in paths))
    pids = [int(path.read_text()) for path in paths]
    assert all(map(_is_alive, pids))
    parent.kill()
    parent.wait()
    _wait_for(lambda: not any(map(_is_alive, pids)))
