"""What ranks say reaches the screen and their logs, and what they do is seen."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from convnext_imagenet.launch.ranks import processes as module
from convnext_imagenet.launch.ranks.job_outcome import RankState
from convnext_imagenet.launch.ranks.processes import Processes
from convnext_imagenet.launch.ranks.rank import Layout

from ..conftest import BEGIN

Start = Callable[..., Processes]


@pytest.fixture
def start(tmp_path: Path, nothing_left: None) -> Iterator[Start]:
    """`start(program)` runs it as two ranks, of node `node_rank` of `nodes`."""
    started: list[Processes] = []

    def start_program(
        program: str, nodes: int = 1, node_rank: int = 0, target: str = "CPU", words: tuple[str, ...] = ()
    ) -> Processes:
        logs = tmp_path / "logs"
        logs.mkdir(exist_ok=True)
        layout = Layout(2, target, nodes=nodes, node_rank=node_rank)
        cores = sorted(os.sched_getaffinity(0))
        started.append(Processes([sys.executable, "-c", BEGIN + program, *words], layout, logs, [cores, cores]))
        started[-1].start(60)
        return started[-1]

    yield start_program
    for processes in started:
        if Path(processes._heartbeats.name).exists():  # it goes at the end
            processes.kill()


def _wait(is_done: Callable[[], object]) -> None:
    begin = time.monotonic()
    while not is_done():
        assert time.monotonic() - begin < 60
        time.sleep(0.01)


def _ended(processes: Processes) -> list[RankState]:
    _wait(lambda: all(state.code is not None for state in processes.states()))
    for copier in processes._copiers:
        copier.join(30)
    return processes.states()


def _log(processes: Processes, rank: int) -> bytes:
    """A rank's log without the line that the launcher begins it with."""
    first, _, rest = processes.log(rank).read_bytes().partition(b"\n")
    assert first.startswith(b"--- rank %d, 20" % rank)
    return rest


def test_the_command_in_a_log_shows_no_credentials(start: Start) -> None:
    processes = start("", words=("--records", "s3://user:hunter2@bucket/x?region=a"))
    _ended(processes)
    for rank in (0, 1):
        assert "'--records', 's3://bucket/x']" in processes.log(rank).read_text().partition("\n")[0]


SHOW = "import os; print(*(os.environ.get(name, '-') for name in {names}))"
WAITS = ("MS_TOPO_TIMEOUT", "HCCL_EXEC_TIMEOUT", "HCCL_CONNECT_TIMEOUT")


def test_a_time_out_or_folder_that_the_user_has_set_stands(
    start: Start, capfd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (*WAITS, "ASCEND_CACHE_PATH", "ASCEND_WORK_PATH"):
        monkeypatch.delenv(name, raising=False)
    program = SHOW.format(names=(*WAITS, "ASCEND_CACHE_PATH", "ASCEND_WORK_PATH"))
    processes = start(program, target="Ascend")
    _ended(processes)
    *waits, cache, work = capfd.readouterr().out.split()
    assert waits == ["360", "360", "360"], "six times the time-out"
    assert Path(cache).is_relative_to(tmp_path / "cache")
    assert work == str(tmp_path / "logs" / "rank-0-files")
    assert _log(processes, 1).decode().split() == [*waits, cache, work.replace("rank-0", "rank-1")]
    assert all(Path(folder).is_dir() for folder in (cache, work))
    processes.kill()

    for name, value in {"HCCL_CONNECT_TIMEOUT": "7", "ASCEND_CACHE_PATH": "/own", "MS_WORKER_NUM": "9"}.items():
        monkeypatch.setenv(name, value)
    _ended(start(program + "; print(os.environ['MS_WORKER_NUM'])", target="Ascend"))
    assert capfd.readouterr().out.split() == ["360", "360", "7", "/own", work, "2"], "the number of ranks is ours"


def test_the_first_rank_speaks_on_the_screen_and_all_into_their_logs(start: Start, capfd) -> None:
    processes = start("print('out of', rank); sys.stderr.write(f'err of {rank}\\n')")  # in one write each
    _ended(processes)
    assert capfd.readouterr() == ("out of 0\n", "err of 0\n")
    assert {rank: sorted(_log(processes, rank).split(b"\n")) for rank in range(2)} == {
        0: [b"", b"err of 0", b"out of 0"],
        1: [b"", b"err of 1", b"out of 1"],
    }


def test_a_progress_bar_moves_on_the_screen_and_leaves_its_end_in_the_log(start: Start, capfd) -> None:
    bar = "\r 10%\r 50%\r100%\n"
    processes = start(
        f"for state in {[*bar]}: os.write(2, state.encode())\nos.write(1, b'dos\\r\\nlast\\rline'); time.sleep(0)"
    )
    _ended(processes)
    shown = capfd.readouterr()
    assert shown.out == "dos\r\nlast\rline"
    assert shown.err.replace("\n", "") == bar.replace("\n", ""), "a line that stdout interrupts is ended first"
    assert shown.err.count("\n") <= 2
    assert _log(processes, 0).replace(b"100%\n", b"", 1) == b"dos\nline"
    assert b"100%\n" in _log(processes, 0)


def test_only_the_rank_on_the_screen_shows_bars(start: Start) -> None:
    processes = start("print(os.environ.get('TQDM_DISABLE'), os.environ['COLUMNS'].isdecimal())")
    _ended(processes)
    assert [_log(processes, rank) for rank in range(2)] == [b"None True\n", b"1 True\n"]


def test_bytes_that_are_no_text_stay_as_they_are_in_the_log(start: Start, capfd) -> None:
    processes = start(r"os.write(1, b'caf\xc3'); time.sleep(0.1); os.write(1, b'\xa9 \xff\xfe\x00\n')")
    assert [state.code for state in _ended(processes)] == [0, 0]
    assert capfd.readouterr().out == "café \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\x00\n"
    assert [_log(processes, rank) for rank in range(2)] == [b"caf\xc3\xa9 \xff\xfe\x00\n"] * 2
    assert processes.last_lines(1, 1)[0].startswith("café ")


def _closed() -> io.TextIOWrapper:
    screen = io.TextIOWrapper(io.BytesIO())
    screen.close()
    return screen


def _pipe_without_a_reader() -> io.TextIOWrapper:
    theirs, ours = os.pipe()
    os.close(theirs)
    return io.TextIOWrapper(io.FileIO(ours, "w", closefd=True), write_through=True)


@pytest.mark.parametrize("screen", [_closed, _pipe_without_a_reader, lambda: io.TextIOWrapper(io.BytesIO(), "ascii")])
def test_a_screen_that_cannot_be_written_stops_no_rank(
    start: Start, monkeypatch: pytest.MonkeyPatch, screen: Callable[[], io.TextIOWrapper]
) -> None:
    """More than a pipe holds, which a rank could not get rid of if nobody read it."""
    monkeypatch.setattr(sys, "stdout", screen())
    processes = start("print('é' * 200_000)")
    assert [state.code for state in _ended(processes)] == [0, 0]
    assert _log(processes, 0).decode() == "é" * 200_000 + "\n"


def test_the_last_lines_are_those_that_say_something(start: Start) -> None:
    processes = start("for line in range(9): print(line, '\\n')\nprint('z' * 70_000); print('the end\\n\\n  ')")
    _ended(processes)
    for rank in range(2):
        assert processes.last_lines(rank, 2)[-1] == "the end"
        assert len(processes.last_lines(rank, 2)) == 2
        assert len(processes.last_lines(rank, 99)) == 2, "only the last 64 KiB are read"


def test_what_ranks_do_is_seen(start: Start, tmp_path: Path) -> None:
    processes = start(
        "if rank == 1: sys.exit(7)\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "heartbeat.beat('training', 2); wait_for('go')\nheartbeat.beat('evaluating', 1); time.sleep(600)"
    )
    _wait(lambda: processes.states()[0].heartbeat.steps == 2 and processes.states()[1].code is not None)
    first, second = processes.states()
    assert (first.rank, first.code, first.ended_s, first.heartbeat.doing) == (0, None, 0.0, "training")
    assert (second.rank, second.code, second.heartbeat.steps, second.heartbeat.doing) == (1, 7, 0, "starting")
    assert 0 <= second.ended_s < 60
    (tmp_path / "go").touch()
    _wait(lambda: processes.states()[0].heartbeat.doing == "evaluating")
    assert processes.states()[0].heartbeat.steps == 3
    processes.request_stop()
    _wait(lambda: processes.states()[0].code is not None)
    first, later = processes.states()
    assert first.code == 75
    assert later.ended_s > second.ended_s, "counted from its own end"


def test_a_rank_that_has_told_its_code_may_crash_or_hang_when_it_leaves(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TEARDOWN_SECONDS", 0.5)
    processes = start(
        "heartbeat.announce_exit(3 + rank)\nif rank: os.kill(os.getpid(), signal.SIGSEGV)\ntime.sleep(600)"
    )
    codes = set()
    _wait(lambda: codes.add(processes.states()[0].code) or codes >= {None, 3})
    assert processes.states()[1].code == 4
    assert processes._ranks[0].process.poll() is None, "and is killed afterwards"


def test_a_second_machine_starts_its_own_ranks_and_no_scheduler(start: Start, tmp_path: Path) -> None:
    processes = start("print([os.environ[name] for name in ('RANK_ID', 'RANK_SIZE', 'DEVICE_ID')])", 2, node_rank=1)
    assert [state.rank for state in _ended(processes)] == [2, 3]
    assert processes.screen_rank == 2
    assert _log(processes, 3) == b"['3', '4', '1']\n"
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"rank-2.log", "rank-3.log"}


def test_the_scheduler_has_a_log_and_ends_with_the_job(start: Start, tmp_path: Path) -> None:
    processes = start("wait_for('go')")
    assert processes._scheduler is not None
    assert processes._scheduler.poll() is None
    assert (tmp_path / "logs" / "scheduler.log").exists()
    processes.kill()
    assert processes._scheduler.returncode == -signal.SIGKILL


def test_the_scheduler_of_several_machines_is_waited_for_but_not_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SCHEDULER_SECONDS", 0.2)
    for nodes, least_s in ((1, 0.0), (2, 0.2)):
        processes, begin = start("", nodes=nodes), time.monotonic()
        processes.wait_for_scheduler()
        assert least_s <= time.monotonic() - begin < 30


def test_what_left_a_ranks_process_group_keeps_nobody_waiting(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COPIER_SECONDS", 0.1)
    processes = start(
        "if rank == 0:\n    print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid); time.sleep(600)"
    )
    _wait(lambda: _log(processes, 0))
    begin = time.monotonic()
    processes.kill()
    seconds = time.monotonic() - begin
    subprocess.run(["kill", _log(processes, 0).decode().strip()], check=True)
    assert seconds < 60
