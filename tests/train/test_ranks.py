"""Jobs of two ranks as a user starts them: the same run as on one; stopped, killed, hung, started again; two machines.

Every test drives the command line in processes of its own and looks for processes that were left behind.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.numpy

from convnext_imagenet.launch.launcher import free_port
from convnext_imagenet.train.metrics import read_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two ranks on the CPU need two cores"),
]

# The command line with a fault in step STEP of rank 1: it raises, gets a signal, or has the launcher get one.
FAULTY = """
import os, signal, time
from convnext_imagenet.train import cli
from convnext_imagenet.train.learner import Learner

kind, step = os.environ["FAULT"], int(os.environ["STEP"])
learn, calls = Learner.learn, []

def learn_or_fail(self, *inputs):
    calls.append(1)
    if len(calls) == step and os.environ.get("RANK_ID") == "1":
        if kind == "raise":
            raise ValueError("a fault of rank 1")
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


@pytest.fixture
def start(records_root: Path, tiny: tuple[str, ...], tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """`start(run, option, ...)` trains on two ranks; `fault=(kind, step)` lets rank 1 fail in that step."""
    jobs: list[Job] = []

    def start_job(run: Path, *options: str, devices: int = 2, fault: tuple[str, int] | None = None) -> Job:
        script = Path(sys.executable).with_name("convnext-train")
        environment = {}
        if fault:
            script = tmp_path / "faulty.py"
            script.write_text(FAULTY)
            environment = {"FAULT": fault[0], "STEP": str(fault[1])}
        overrides = [word for override in tiny for word in ("--set", override)]
        words = ["run", "paper-tiny", "--records", str(records_root), "--out", str(run), "--devices", str(devices)]
        jobs.append(Job([sys.executable, str(script), *words, *overrides, "--workers", "1", *options], environment))
        return jobs[-1]

    yield start_job
    for job in jobs:
        job.process.kill()


@pytest.fixture(scope="module")
def finished_by_two(tmp_path_factory: pytest.TempPathFactory, records_root: Path, tiny: tuple[str, ...]) -> Path:
    """The run of `finished_run` by two ranks, which nothing interrupted."""
    run = tmp_path_factory.mktemp("two") / "run"
    overrides = [word for override in tiny for word in ("--set", override)]
    words = ["run", "paper-tiny", "--records", str(records_root), "--out", str(run), "--devices", "2", *overrides]
    command = [sys.executable, str(Path(sys.executable).with_name("convnext-train")), *words, "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 ranks on CPU" in done.stderr
    assert "epoch: 4 step: 4, loss is" in done.stdout, "rank 0 speaks on the screen"
    return run


def _arrays(run: Path) -> dict[str, np.ndarray]:
    files = sorted((run / "checkpoints").glob("epoch-0004.*.safetensors"))
    assert len(files) == 3
    return {name: array for file in files for name, array in safetensors.numpy.load_file(file).items()}


def _assert_same_bits(run: Path, expected: Path) -> None:
    found = _arrays(run)
    for name, value in _arrays(expected).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def _assert_close(run: Path, expected: Path) -> None:
    """Sums over ranks are added in another order: each parameter moves by far less than one step of 0.002."""
    found = _arrays(run)
    for name, value in _arrays(expected).items():
        np.testing.assert_allclose(found[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    for one, other in zip(read_metrics(run / "metrics.jsonl"), read_metrics(expected / "metrics.jsonl"), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert [one[key] for key in ("step", "train_top1", "val_rows")] == [
            other[key] for key in ("step", "train_top1", "val_rows")
        ]


def test_two_ranks_train_as_one_does(finished_by_two: Path, finished_run: Path) -> None:
    _assert_close(finished_by_two, finished_run)
    logs = finished_by_two / "logs"
    assert {path.name for path in logs.iterdir()} == {"rank-0.log", "rank-1.log", "scheduler.log"}
    assert all("epoch: 4 step: 4" in (logs / f"rank-{rank}.log").read_text() for rank in range(2))


def test_a_stopped_job_leaves_with_75_and_goes_on_by_one_rank(
    start: Callable[..., Job], finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, said, _ = start(run, fault=("launcher SIGTERM", 6)).wait()
    assert code == 75, said
    assert (run / "last").read_text() in ("step-00000006\n", "step-00000007\n", "step-00000008\n")
    assert "the same command goes on from the checkpoint that was saved" in said
    code, said, _ = start(run, devices=1).wait()
    assert code == 0, said
    assert "resuming after epoch" in said
    _assert_close(run, finished_run)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
@pytest.mark.parametrize("step", [4, 15])
def test_a_job_stopped_by_any_signal_ends_with_the_same_bits(
    start: Callable[..., Job], finished_by_two: Path, tmp_path: Path, name: str, step: int
) -> None:
    run = tmp_path / "run"
    code, said, _ = start(run, fault=(f"launcher {name}", step)).wait()
    assert code == 75, said
    code, said, _ = start(run).wait()
    assert code == 0, said
    _assert_same_bits(run, finished_by_two)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("fault", "words", "within_s"),
    [
        (("raise", 6), [r"rank 1 ended with exit code 1", "ValueError: a fault of rank 1"], 20),
        (("SIGKILL", 6), [r"rank 1 was killed by SIGKILL \(after [45] steps"], 20),
        (("SIGSTOP", 6), [r"rank 1 gave no sign of life for \d+ s \(after [45] steps, training\)"], 60),
    ],
    ids=["raises", "is-killed", "hangs"],
)
def test_a_rank_that_fails_ends_the_job_and_the_job_goes_on(
    start: Callable[..., Job],
    finished_by_two: Path,
    tmp_path: Path,
    fault: tuple[str, int],
    words: list[str],
    within_s: float,
) -> None:
    run = tmp_path / "run"
    job = start(run, "--save-steps", "2", "--silence", "15", fault=fault)
    _wait_for_step(run, job, 4)
    code, said, seconds = job.wait()
    assert code == 1, said
    for word in words:
        assert re.search(word, said), said
    assert "the last lines of rank 1, more in" in said
    assert seconds < within_s, said
    code, said, _ = start(run).wait()
    assert code == 0, said
    _assert_same_bits(run, finished_by_two)


@pytest.mark.faults
def test_a_job_is_started_again_as_often_as_asked(
    start: Callable[..., Job], finished_by_two: Path, tmp_path: Path
) -> None:
    """Rank 1 is killed in the sixth step of each start: 4, 8, 12 and 16 steps are reached by saving every two."""
    run = tmp_path / "run"
    code, said, _ = start(run, "--save-steps", "2", "--restarts", "5", fault=("SIGKILL", 6)).wait()
    assert code == 0, said
    assert said.count("starting again from the last checkpoint") == 3, said
    _assert_same_bits(run, finished_by_two)


@pytest.mark.faults
def test_bad_input_is_not_tried_again(start: Callable[..., Job], tmp_path: Path) -> None:
    code, said, _ = start(tmp_path / "run", "--restarts", "3", "--set", "model.num_classes=1000").wait()
    assert code == 1, said
    assert "the records hold 3 classes" in said
    assert "starting again" not in said


@pytest.mark.faults
def test_ranks_do_not_outlive_their_launcher(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start(tmp_path / "run", "--save-steps", "1")
    _wait_for_step(tmp_path / "run", job, 2)
    assert len(job.ranks()) == 2
    os.kill(job.process.pid, signal.SIGKILL)
    assert job.wait()[0] == -signal.SIGKILL


@pytest.mark.faults
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
        assert code == 1, said
    else:
        code, said, _ = start(run).wait()
    assert code == 0, said
    _assert_same_bits(run, finished_by_two)


@pytest.mark.faults
def test_two_launchers_share_a_job_and_stop_together(
    start: Callable[..., Job], finished_by_two: Path, tmp_path: Path
) -> None:
    run, master = tmp_path / "run", f"127.0.0.1:{free_port()}"

    def both(*options: str, fault: tuple[str, int] | None = None) -> list[Job]:
        shared = ["--nodes", "2", "--master", master, *options]
        return [start(run, *shared, "--node-rank", str(node), devices=1, fault=fault) for node in (1, 0)]

    for fault, expected in ((("launcher SIGTERM", 3), 75), (("SIGKILL", 3), 1)):
        for job in both("--save-steps", "2", fault=fault):
            code, said, seconds = job.wait()
            assert (code, seconds < 60) == (expected, True), said
    for job in both():
        code, said, _ = job.wait()
        assert code == 0, said
    _assert_same_bits(run, finished_by_two)


def _wait_for_step(run: Path, job: Job, step: int) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < SECONDS and job.process.poll() is None:
        job.ranks()
        with contextlib.suppress(OSError, ValueError):
            unit = (run / "last").read_text().strip()
            steps = int(unit[5:]) if unit.startswith("step-") else 4 * int(unit[6:])
            if steps >= step:
                return
        time.sleep(0.05)
