"""A rank tells that it lives, and does not outlive its launcher."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from convnext_imagenet.launch.ranks.heartbeat import (
    HEARTBEAT_FILE,
    LAUNCHER_PIPE,
    Heartbeat,
    HeartbeatWriter,
    own_heartbeat,
    read_announced_exit,
    read_heartbeat,
    tie_to_launcher,
)

# A rank with a child of its own, whose process id it prints. A call to C keeps the interpreter to itself.
PARENT = """
import ctypes, subprocess, sys
from convnext_imagenet.launch.ranks.heartbeat import tie_to_launcher

print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
sys.stdin.readline()
tie_to_launcher()
print("tied", flush=True)
ctypes.PyDLL(None).sleep(600)
"""


def test_steps_add_up_and_the_last_doing_counts(tmp_path: Path) -> None:
    heartbeat = own_heartbeat({HEARTBEAT_FILE: str(tmp_path / "heartbeat")})
    started = time.time()
    for doing, steps in (("training", 1), ("training", 2), ("saving a checkpoint", 0)):
        heartbeat.beat(doing, steps)
    beat = read_heartbeat(tmp_path / "heartbeat", started)
    assert (beat.steps, beat.doing) == (3, "saving a checkpoint")
    assert -1 < beat.age_s < 60


@pytest.mark.parametrize(("changed_s", "started_s", "age_s"), [(100, 300, 100), (300, 100, 100), (50, 50, 50)])
def test_silence_is_counted_from_the_last_beat_or_the_start(
    tmp_path: Path, changed_s: float, started_s: float, age_s: float
) -> None:
    """The file of an earlier attempt may lie there; seconds are before now."""
    path, now = tmp_path / "heartbeat", time.time()
    HeartbeatWriter(path).beat("evaluating", 5)
    os.utime(path, (now - changed_s, now - changed_s))
    beat = read_heartbeat(path, now - started_s)
    assert (beat.steps, beat.doing) == (5, "evaluating")
    assert beat.age_s == pytest.approx(age_s, abs=30)


def test_before_its_first_beat_a_rank_is_starting(tmp_path: Path) -> None:
    beat = read_heartbeat(tmp_path / "absent", time.time() - 100)
    assert beat == Heartbeat(0, "starting", pytest.approx(100, abs=30))


def test_a_beat_is_never_read_half_written(tmp_path: Path) -> None:
    """A rank that seems to have made no step would be blamed for the others' silence."""
    heartbeat, is_over, started = HeartbeatWriter(tmp_path / "heartbeat"), threading.Event(), time.time()
    heartbeat.beat("training", 1)

    def beat() -> None:
        while not is_over.is_set():
            heartbeat.beat("training", 1)

    writer = threading.Thread(target=beat)
    writer.start()
    try:
        beats = [read_heartbeat(tmp_path / "heartbeat", started) for _ in range(2000)]
    finally:
        is_over.set()
        writer.join()
    steps = [beat.steps for beat in beats]
    assert steps == sorted(steps)
    assert steps[-1] > steps[0] > 0, "otherwise nothing was written meanwhile"
    assert {beat.doing for beat in beats} == {"training"}


def test_a_rank_tells_with_which_code_it_leaves(tmp_path: Path) -> None:
    assert read_announced_exit(tmp_path / "heartbeat") is None
    heartbeat = HeartbeatWriter(tmp_path / "heartbeat")
    heartbeat.beat("training", 1)
    assert read_announced_exit(tmp_path / "heartbeat") is None
    heartbeat.announce_exit(75)
    assert read_announced_exit(tmp_path / "heartbeat") == 75
    assert read_heartbeat(tmp_path / "heartbeat", 0).steps == 1


def test_without_a_launcher_nothing_is_written_and_nothing_is_tied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for environment in ({}, {HEARTBEAT_FILE: ""}):
        own_heartbeat(environment).beat("training", 1)
        own_heartbeat(environment).announce_exit(0)
    assert list(tmp_path.iterdir()) == []
    before = len(list(Path("/proc/self/fd").iterdir()))
    tie_to_launcher({})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("is_early", [False, True], ids=["lets-go", "let-go-before"])
def test_a_rank_and_its_children_die_when_the_launcher_lets_go(is_early: bool) -> None:
    theirs, ours = os.pipe()
    rank = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=os.environ | {LAUNCHER_PIPE: str(theirs)},
        pass_fds=(theirs,),
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    assert rank.stdin is not None
    assert rank.stdout is not None
    try:
        child = psutil.Process(int(rank.stdout.readline()))
        if is_early:
            os.close(ours)
        print(file=rank.stdin, flush=True)
        if not is_early:
            assert rank.stdout.readline() == "tied\n"
            assert rank.poll() is None
            os.close(ours)
        assert rank.wait(30) == -signal.SIGKILL
        assert not _runs(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(rank.pid, signal.SIGKILL)
        rank.communicate()


def _runs(process: psutil.Process) -> bool:
    """Whether a process still does after up to ten seconds; one that nobody has waited for does not."""
    for _ in range(200):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        time.sleep(0.05)
    process.kill()
    return True
