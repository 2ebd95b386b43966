"""The processes of a job on one machine: the scheduler on the first machine, the ranks, their logs and heartbeats."""

import codecs
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from convnext_imagenet.launch.devices import device_folders
from convnext_imagenet.launch.ranks.heartbeat import HEARTBEAT_FILE, LAUNCHER_PIPE, read_announced_exit, read_heartbeat
from convnext_imagenet.launch.ranks.job_outcome import RankState
from convnext_imagenet.launch.ranks.rank import Layout, default_environment, rank_environment, scheduler_environment

_SCHEDULER = "convnext_imagenet.launch.ranks.scheduler"
_SCHEDULER_SECONDS = 60.0  # how long it may take to notice that all ranks of all machines have exited
_COPIER_SECONDS = 5.0  # how long the output of killed ranks may take to arrive
_TEARDOWN_SECONDS = 10.0  # how long a rank may take to exit after it has announced its exit
_LONGEST_LINE_BYTES = 1 << 20
_TAIL_BYTES = 64 << 10  # a log may have gigabytes


@dataclass
class _Rank:
    process: subprocess.Popen[bytes]
    started: float
    heartbeat: Path
    ended: float | None = None


class Processes:
    """All processes of one attempt. Each rank leads its own process group, so that its children die with it.

    The first rank of this machine prints to the screen and to its log, the others only to their logs.
    """

    def __init__(self, command: Sequence[str], layout: Layout, logs: Path, cores: Sequence[Sequence[int]]) -> None:
        self._command, self._layout, self._logs, self._cores = list(command), layout, logs, cores
        self._ranks: dict[int, _Rank] = {}
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._copiers: list[threading.Thread] = []
        self._defaults: Mapping[str, str] = {}
        self._heartbeats = tempfile.TemporaryDirectory(prefix="convnext-heartbeat-")
        self._ranks_end, self._launcher_end = os.pipe()

    @property
    def screen_rank(self) -> int:
        """Return the rank whose output is shown on the screen."""
        return self._layout.local_ranks.start

    def start(self, timeout_s: float) -> None:
        """Start the scheduler (on the first machine only) and this machine's ranks on their cores. Raises OSError."""
        self._defaults = default_environment(int(timeout_s))
        if self._layout.node_rank == 0:
            environment = scheduler_environment(self._layout)
            with (self._logs / "scheduler.log").open("ab") as log:
                command = [sys.executable, "-m", _SCHEDULER]
                self._scheduler = self._spawn(command, environment, log, log)
        for rank, cores in zip(self._layout.local_ranks, self._cores, strict=True):
            heartbeat = Path(self._heartbeats.name) / str(rank)
            environment = rank_environment(self._layout, rank) | {HEARTBEAT_FILE: str(heartbeat)}
            process = self._start_rank(rank, environment)
            with contextlib.suppress(ProcessLookupError):  # it has ended already; its exit code says why
                os.sched_setaffinity(process.pid, cores)
            self._ranks[rank] = _Rank(process, time.time(), heartbeat)

    def request_stop(self) -> None:
        """Ask every rank to save and exit."""
        for rank in self._ranks.values():
            if rank.process.poll() is None:
                rank.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill every process that still runs, with its children, and wait for its end."""
        all_processes = [rank.process for rank in self._ranks.values()] + ([self._scheduler] if self._scheduler else [])
        for process in all_processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in all_processes:
            process.wait()
        for copier in self._copiers:
            copier.join(_COPIER_SECONDS)  # a process outside the rank's group may keep the pipe open
        os.close(self._launcher_end)
        os.close(self._ranks_end)
        self._heartbeats.cleanup()

    def states(self) -> list[RankState]:
        """Return the state of each rank of this machine, in order."""
        return [self._state(number, rank) for number, rank in self._ranks.items()]

    def log(self, rank: int) -> Path:
        """Return the log file of a rank."""
        return self._logs / f"rank-{rank}.log"

    def last_lines(self, rank: int, count: int) -> list[str]:
        """Return the last `count` lines, without blank ones, of the last 64 KiB of a rank's log."""
        path = self.log(rank)
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return [line for line in text.splitlines() if line.strip()][-count:]

    def wait_for_scheduler(self) -> None:
        """Wait until the ranks of other machines have exited; until then the scheduler must serve them."""
        if self._scheduler is not None and self._layout.nodes > 1:
            try:
                self._scheduler.wait(_SCHEDULER_SECONDS)
            except subprocess.TimeoutExpired:
                return

    def _start_rank(self, rank: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        environment = {**self._folders(rank), **environment}
        with self.log(rank).open("ab") as log:
            from convnext_imagenet.base.stores import without_credentials  # here: --help must not load PyArrow

            words = [without_credentials(word) for word in self._command[1:]]
            log.write(f"--- rank {rank}, {time.strftime('%Y-%m-%d %H:%M:%S')}: {words}\n".encode())
            log.flush()
            if rank != self.screen_rank:
                return self._spawn(self._command, {**environment, "TQDM_DISABLE": "1"}, log, log)
        process = self._spawn(self._command, environment, subprocess.PIPE, subprocess.PIPE)
        screen = RankScreen(sys.stdout, sys.stderr)
        for source, show in ((process.stdout, screen.show_output), (process.stderr, screen.show_error)):
            copier = threading.Thread(target=_copy, args=(source, show, self.log(rank)), daemon=True)
            copier.start()
            self._copiers.append(copier)
        return process

    def _folders(self, rank: int) -> dict[str, str]:
        """Create the folders that a rank's device needs, and return their variables; not those that the user set."""
        folders = device_folders(self._layout.target, self._logs / f"rank-{rank}-files")
        folders = {name: folder for name, folder in folders.items() if name not in os.environ}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        return {name: str(folder) for name, folder in folders.items()}

    def _spawn(
        self, command: Sequence[str], environment: Mapping[str, str], out: IO[bytes] | int, err: IO[bytes] | int
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env={
                **self._defaults,
                **os.environ,
                **environment,
                LAUNCHER_PIPE: str(self._ranks_end),
                "PYTHONUNBUFFERED": "1",
                "COLUMNS": _columns(),
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=(self._ranks_end,),
            start_new_session=True,
        )

    def _state(self, number: int, rank: _Rank) -> RankState:
        code, announced = rank.process.poll(), read_announced_exit(rank.heartbeat)
        if rank.ended is None and (code, announced) != (None, None):
            rank.ended = time.time()
        ended_s = 0.0 if rank.ended is None else time.time() - rank.ended
        if announced is not None and (code is not None or ended_s > _TEARDOWN_SECONDS):
            code = announced
        return RankState(number, code, ended_s, read_heartbeat(rank.heartbeat, rank.started))


class RankScreen:
    """The screen of a rank whose two streams are copied by two threads; no line of output stands behind a bar.

    The rank ends the line of its bar on standard error before it prints on standard output. But the threads may read
    these in the other order, and both streams may lead to one file.
    """

    def __init__(self, output: IO[str], error: IO[str]) -> None:
        self._output, self._error, self._lock = output, error, threading.Lock()
        self._is_in_line = self._was_ended = False

    def show_output(self, text: str) -> None:
        """Write to standard output, after the end of a line that standard error has begun."""
        with self._lock:
            if self._is_in_line:
                self._write(self._error, "\n")
                self._is_in_line, self._was_ended = False, True
            self._write(self._output, text)

    def show_error(self, text: str) -> None:
        """Write to standard error; the rank's own end of a line that is ended already is left out."""
        with self._lock:
            shown = text.removeprefix("\n") if self._was_ended else text
            self._was_ended = False
            self._write(self._error, shown)
            self._is_in_line = bool(shown) and not shown.endswith("\n")

    def _write(self, stream: IO[str], text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a screen that is closed, or cannot encode the text
            stream.write(text)
            stream.flush()


def _copy(source: IO[bytes], show: Callable[[str], None], log: Path) -> None:
    """Copy a rank's output to the screen at once, and to its log in whole lines: a progress bar leaves its last state.

    The log has no carriage returns, so that it can be searched and its last lines can be shown.
    """
    line, decoder = b"", codecs.getincrementaldecoder("utf-8")("replace")
    with log.open("ab") as file:
        while chunk := source.read1(1 << 16):  # type: ignore[attr-defined]
            show(decoder.decode(chunk))
            *ended, line = (line + chunk).split(b"\n")
            line = line[-_LONGEST_LINE_BYTES:]  # a progress bar may be one line for days
            for whole in ended:
                file.write(whole.rstrip(b"\r").rsplit(b"\r", 1)[-1] + b"\n")
            file.flush()
        file.write(line.rsplit(b"\r", 1)[-1])


def _columns() -> str:
    try:
        return str(os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return "100"
