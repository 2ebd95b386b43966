"""A launcher starts the ranks of a job, ends all of them when one fails, and leaves nothing behind.

The `run` fixture looks for processes that are left after each test.
"""

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks import launcher_link, processes
from convnext_imagenet.launch.ranks.job_token import JOB_TOKEN
from convnext_imagenet.launch.ranks.launcher import LaunchPlan, free_port, run_job
from convnext_imagenet.launch.ranks.rank import Layout, divide_cores

from ..conftest import BEGIN

STOPPED = "stopping: each rank finishes its step and saves (a second signal stops at once)"
# Ranks that are ready say so; rank 1 then has the launcher stopped.
STOP_LAUNCHER = """
import threading
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
stopped = threading.Event()
(here / f"ready-{rank}").touch()
if rank == 1:
    wait_for("ready-0")
    os.kill(os.getppid(), signal.SIGNAL)
stopped.wait(30)
"""


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("", 0, []),
        ("sys.exit(75)", 75, []),
        ("sys.exit(3) if rank == 0 else time.sleep(0.2)", 3, []),
        ("heartbeat.announce_exit(0); os.kill(os.getpid(), signal.SIGSEGV)", 0, []),
        (
            "sys.exit(4) if rank == 1 else time.sleep(600)",
            4,
            ["Error: rank 1 ended with exit code 4; all ranks were stopped"],
        ),
        (
            "sys.exit(74) if rank == 0 else time.sleep(600)",
            74,
            ["Error: rank 0 ended with exit code 74; all ranks were stopped"],
        ),
        (
            "heartbeat.beat('training', 7); os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(600)",
            74,
            ["Error: rank 1 was killed by SIGKILL (after 7 steps, training); all ranks were stopped"],
        ),
    ],
    ids=["done", "interrupted", "error-rows", "crashes-after-its-work", "rank-1-fails", "rank-0-fails", "is-killed"],
)
def test_a_job_ends_with_the_code_of_its_ranks(run, program: str, code: int, said: list[str]) -> None:
    ended = run(program)
    assert ended.code == code
    assert [line for line in ended.said if line.startswith("Error")] == said


def test_a_rank_that_hangs_ends_the_job(run) -> None:
    ended = run(
        "heartbeat.beat('training')\n"
        "for step in range(1000):\n"
        "    if rank == 0 or step < 2: heartbeat.beat('training', 1)\n"
        "    time.sleep(0.05)",
        timeout_s=1,
    )
    assert ended.code == 74
    assert re.search(r"rank 1 sent no heartbeat for \d+ s \(after 2 steps, training\)", ended.said[-1]), ended.said


def test_what_a_rank_has_started_ends_with_it(run, tmp_path: Path) -> None:
    """`nothing_left` looks: a child of rank 0 that would go on, a child of rank 1 that hears no signal."""
    ended = run(
        "child = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'\n"
        "subprocess.Popen([sys.executable, '-c', child])\n"
        "(here / f'started-{rank}').touch()\n"
        "wait_for(f'started-{1 - rank}')\n"
        "sys.exit(5) if rank == 0 else time.sleep(600)"
    )
    assert ended.code == 5
    assert {path.name for path in tmp_path.glob("started-*")} == {"started-0", "started-1"}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_a_stop_signal_reaches_all_ranks_and_the_job_ends_as_interrupted(run, tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    ended = run(
        STOP_LAUNCHER.replace("SIGNAL", name)
        + "(here / f'saved-{rank}').touch(); sys.exit(75 if stopped.is_set() else 9)"
    )
    assert (ended.code, ended.said) == (75, [STOPPED])
    assert {path.name for path in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}
    assert signal.getsignal(number) == before


def test_a_second_signal_ends_ranks_that_do_not_stop(run) -> None:
    ended = run(
        STOP_LAUNCHER.replace("SIGNAL", "SIGTERM")
        + "if rank == 1: os.kill(os.getppid(), signal.SIGTERM)\n"
        + "time.sleep(600)"
    )
    assert (ended.code, ended.said) == (75, [STOPPED, "stopped by a second signal, without saving a checkpoint"])


FAIL_TWICE = """
heartbeat.beat('training', 1)
with open(here / f"attempts-{rank}", "a") as file: file.write("x")
(here / f"beat-{rank}-{os.stat(here / f'attempts-{rank}').st_size}").touch()
wait_for(f"beat-{1 - rank}-{os.stat(here / f'attempts-{rank}').st_size}")
if os.stat(here / f"attempts-{rank}").st_size < 3:
    sys.exit(1) if rank == 1 else time.sleep(600)
"""


@pytest.mark.parametrize(("restarts", "code", "attempts"), [(0, 1, 1), (1, 1, 2), (2, 0, 3), (9, 0, 3)])
def test_a_job_is_started_again_as_often_as_asked(run, tmp_path: Path, restarts: int, code: int, attempts: int) -> None:
    ended = run(FAIL_TWICE, restarts=restarts)
    assert ended.code == code
    assert (tmp_path / "attempts-0").read_text() == "x" * attempts
    again = [line for line in ended.said if line.startswith("restarting")]
    assert again == [
        f"restarting from the last checkpoint (restart {count} of {restarts})" for count in range(1, attempts)
    ]
    assert (ended.logs / "rank-1.log").read_text().count("--- rank 1, ") == attempts, "logs of all attempts"


@pytest.mark.parametrize(
    ("program", "code", "attempts"),
    [
        ("sys.exit(1)", 1, 1),
        ("heartbeat.beat('training', 0); sys.exit(1)", 1, 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", 74, 3),
    ],
    ids=["refused", "refused-while-working", "killed"],
)
def test_bad_input_is_not_tried_again_but_bad_luck_is(run, program: str, code: int, attempts: int) -> None:
    ended = run(program, devices=1, restarts=2)
    assert ended.code == code
    assert (ended.logs / "rank-0.log").read_text().count("--- rank 0, ") == attempts


def test_the_last_lines_of_a_failed_rank_are_shown_unless_they_were_on_the_screen(run) -> None:
    program = "if rank == {}:\n    for line in range(30): print('line', line)\n    sys.exit(1)\ntime.sleep(600)"
    first, *shown, last, error = run(program.format(1)).said
    assert first.startswith("--- last lines of rank 1; its whole log is ")
    assert first.endswith("rank-1.log")
    assert shown == [f"    line {line}" for line in range(10, 30)]
    assert last == "---"
    assert error.startswith("Error: rank 1 ")
    assert [line[:17] for line in run(program.format(0)).said] == ["Error: rank 0 end"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores to divide")
def test_each_rank_keeps_to_its_own_cores(run, tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    ended = run(
        f"while len(os.sched_getaffinity(0)) == {len(cores)}: time.sleep(0.01)\n"
        "(here / f'cores-{rank}').write_text(str(sorted(os.sched_getaffinity(0))))"
    )
    assert ended.code == 0
    found = [(tmp_path / f"cores-{rank}").read_text() for rank in range(2)]
    assert found == [str(list(part)) for part in divide_cores(cores, 2)]


def _in_the_way(logs: Path) -> None:
    logs.write_text("a file")


def _log_in_the_way(logs: Path) -> None:
    (logs / "rank-1.log").mkdir(parents=True)


@pytest.mark.parametrize("obstacle", [_in_the_way, _log_in_the_way])
def test_ranks_that_cannot_be_started_are_an_error_in_one_line(nothing_left, tmp_path: Path, obstacle) -> None:
    obstacle(tmp_path / "logs")
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    plan = LaunchPlan(Layout(2, "CPU"), command, tmp_path / "logs", [0], timeout_s=60)
    with pytest.raises(LaunchError, match=r"logs.*: the ranks cannot be started \(.+\)"):
        run_job(plan, pytest.fail)


def test_a_job_on_one_machine_opens_no_port_of_its_own(run) -> None:
    """The launcher is the parent of its ranks; it has opened the link before it starts them."""
    ended = run(
        "import psutil\n"
        "listening = [c for c in psutil.Process(os.getppid()).net_connections() if c.status == psutil.CONN_LISTEN]\n"
        "sys.exit(9 if listening else 0)"
    )
    assert ended.code == 0


# A rank of machine 0 as a stranger of its own launcher: three connections, each dropped after its first line.
STRANGER = """
import socket
assert os.stat(here / "logs" / "job-token").st_mode & 0o777 == 0o600
for line in (b"hello 2 1 0\\n", b"end 1 0\\n", b"nonce " + b"0" * 32 + b"\\nstop\\n"):
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as connection:
        connection.sendall(line)
        while connection.recv(100): pass
"""


def test_dropped_connections_are_told_once_at_the_end(
    nothing_left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_SCHEDULER_SECONDS", 0.1)
    monkeypatch.delenv(JOB_TOKEN, raising=False)
    port, said, logs = free_port() - 1, [], tmp_path / "logs"
    command = [sys.executable, "-c", BEGIN + STRANGER.replace("PORT", str(port + 1))]
    layout = Layout(1, "CPU", port=port, nodes=2)
    code = run_job(LaunchPlan(layout, command, logs, [0], 60, shared=logs), said.append)
    assert (code, said) == (0, [f"dropped 3 connections without the job's token on port {port + 1}"])
    assert not (logs / "job-token").exists()


def test_a_launcher_that_finds_no_machine_0_with_its_token_ends_its_ranks(
    nothing_left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher_link, "_PROOF_SECONDS", 1.0)
    monkeypatch.setenv(JOB_TOKEN, "x" * 32)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] - 1
        layout = Layout(1, "CPU", port=port, nodes=2, node_rank=1)
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        with pytest.raises(LaunchError, match=rf"^{JOB_TOKEN}: 127\.0\.0\.1:{port + 1} has not proved for 1 s"):
            run_job(LaunchPlan(layout, command, tmp_path / "logs", [0], 60, restarts=3), pytest.fail)
