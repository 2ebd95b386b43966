"""Ranks that are stopped, raise, die, hang or lose their launcher, and jobs that are started again."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from convnext_imagenet.launch.ranks.job_token import JOB_TOKEN, TOKEN_FILE
from convnext_imagenet.launch.ranks.launcher import free_port

from .rank_jobs import Job, assert_same_bits, needs_two_cores, wait_for_step

pytestmark = [pytest.mark.slow, pytest.mark.faults, needs_two_cores]


@pytest.mark.parametrize(("name", "step"), [("SIGINT", 4), ("SIGTERM", 15), ("SIGUSR1", 4), ("SIGHUP", 15)])
def test_a_job_stopped_by_any_signal_ends_with_the_same_bits(
    start: Callable[..., Job], finished_by_two: Path, tmp_path: Path, name: str, step: int
) -> None:
    run = tmp_path / "run"
    code, said, _ = start(run, fault=(f"launcher {name}", step)).wait()
    assert code == 75, said
    code, said, _ = start(run).wait()
    assert code == 0, said
    assert_same_bits(run, finished_by_two)


@pytest.mark.parametrize(
    ("fault", "code", "words", "within_s"),
    [
        (("raise", 6), 1, [r"rank 1 ended with exit code 1", "ValueError: a fault of rank 1"], 20),
        (("SIGKILL", 6), 74, [r"rank 1 was killed by SIGKILL \(after [45] steps"], 20),
        (("SIGSTOP", 6), 74, [r"rank 1 sent no heartbeat for \d+ s \(after [45] steps, training\)"], 60),
    ],
    ids=["raises", "is-killed", "hangs"],
)
def test_a_rank_that_fails_ends_the_job_and_the_job_goes_on(
    start: Callable[..., Job],
    finished_by_two: Path,
    tmp_path: Path,
    fault: tuple[str, int],
    code: int,
    words: list[str],
    within_s: float,
) -> None:
    run = tmp_path / "run"
    job = start(run, "--save-steps", "2", "--heartbeat-timeout", "15", fault=fault)
    wait_for_step(run, job, 4)
    found, said, seconds = job.wait()
    assert found == code, said
    for word in words:
        assert re.search(word, said), said
    assert "--- last lines of rank 1; its whole log is" in said
    assert seconds < within_s, said
    found, said, _ = start(run).wait()
    assert found == 0, said
    assert_same_bits(run, finished_by_two)


def test_a_rank_that_differs_in_its_last_bits_ends_the_job_at_the_next_checkpoint(
    start: Callable[..., Job], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, said, _ = start(run, "--save-steps", "3", fault=("differ", 4)).wait()
    assert code == 1, said
    assert "after step 4: rank 1 differs from rank 0; all ranks must compute the same bits" in said
    assert (run / "last").read_text() == "step-00000003\n"


def test_a_job_is_started_again_as_often_as_asked(
    start: Callable[..., Job], finished_by_two: Path, tmp_path: Path
) -> None:
    """Rank 1 is killed in the sixth step of each start: 4, 8, 12 and 16 steps are reached by saving every two."""
    run = tmp_path / "run"
    code, said, _ = start(run, "--save-steps", "2", "--restarts", "5", fault=("SIGKILL", 6)).wait()
    assert code == 0, said
    assert said.count("restarting from the last checkpoint") == 3, said
    assert_same_bits(run, finished_by_two)


def test_bad_input_is_not_tried_again(start: Callable[..., Job], tmp_path: Path) -> None:
    code, said, _ = start(tmp_path / "run", "--restarts", "3", "--set", "model.num_classes=1000").wait()
    assert code == 1, said
    assert "the records hold 3 classes" in said
    assert "restarting" not in said


def test_ranks_do_not_outlive_their_launcher(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start(tmp_path / "run", "--save-steps", "1")
    wait_for_step(tmp_path / "run", job, 2)
    assert len(job.ranks()) == 2
    os.kill(job.process.pid, signal.SIGKILL)
    assert job.wait()[0] == -signal.SIGKILL


def test_ranks_killed_at_random_end_with_the_same_bits(
    start: Callable[..., Job], finished_by_two: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    run, code, said = tmp_path / "run", 1, ""
    for _ in range(6):
        job = start(run, "--save-steps", "2")
        while job.process.poll() is None and len(job.ranks()) < 2:
            time.sleep(0.1)
        time.sleep(float(rng.uniform(5, 25)))
        with contextlib.suppress(KeyError, psutil.NoSuchProcess):
            job.ranks()[int(rng.integers(2))].kill()
        code, said, seconds = job.wait()
        assert seconds < 30, said
        if code == 0:
            break
        assert code == 74, said
    else:
        code, said, _ = start(run).wait()
    assert code == 0, said
    assert_same_bits(run, finished_by_two)


def test_two_launchers_share_a_job_and_stop_together(
    start: Callable[..., Job], finished_by_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a token first through the file in RUN, then through the environment."""
    monkeypatch.delenv(JOB_TOKEN, raising=False)
    run, host = tmp_path / "run", f"127.0.0.1:{free_port()}"

    def both(*options: str, fault: tuple[str, int] | None = None) -> list[Job]:
        shared = ["--nodes", "2", "--rendezvous", host, *options]
        return [start(run, *shared, "--node-rank", str(node), devices=1, fault=fault) for node in (1, 0)]

    for fault, expected in ((("launcher SIGTERM", 3), 75), (("SIGKILL", 3), 74)):
        for job in both("--save-steps", "2", fault=fault):
            code, said, seconds = job.wait()
            assert (code, seconds < 60) == (expected, True), said
            assert "without the job's token" not in said
        assert not (run / "logs" / TOKEN_FILE).exists()
    monkeypatch.setenv(JOB_TOKEN, "0123456789abcdef" * 2)
    for job in both():
        code, said, _ = job.wait()
        assert code == 0, said
        assert "without the job's token" not in said
    assert_same_bits(run, finished_by_two)
