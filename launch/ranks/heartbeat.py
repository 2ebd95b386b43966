"""Signs of life: a rank writes down what it is doing, its launcher reads how long ago. No rank outlives its launcher.

A rank beats only where its work goes on, never from a thread of its own, so a rank that hangs falls silent.
"""

import contextlib
import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HEARTBEAT, TETHER = "CONVNEXT_HEARTBEAT", "CONVNEXT_TETHER"


@dataclass(frozen=True)
class Heartbeat:
    """The last sign of life: what was being done, after how many steps, `silent_s` seconds ago."""

    steps: int
    doing: str
    silent_s: float


class HeartbeatWriter:
    """Writes this process's signs of life; without a path, nowhere."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._steps = 0

    def beat(self, doing: str, steps: int = 0) -> None:
        """Tell that the process works: it has finished `steps` more steps and is `doing` something."""
        self._steps += steps
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.new")
            try:
                new.write_text(f"{self._steps} {doing}\n")
                new.replace(self._path)  # read half-written, it would tell of no steps
            except OSError:  # a full disk does not stop a run, and the time of the last beat takes no room
                with contextlib.suppress(OSError):
                    os.utime(self._path)

    def announce_exit(self, code: int) -> None:
        """Tell that all work is done or saved and the process is about to exit with `code`.

        What MindSpore does after that, tearing itself down, may crash or hang and counts for nothing.
        """
        if self._path is not None:
            _exit_file(self._path).write_text(f"{code}\n")


def own_heartbeat(environment: Mapping[str, str] = os.environ) -> HeartbeatWriter:
    """Return where this process's launcher, if it has one, wants its signs of life."""
    path = environment.get(HEARTBEAT)
    return HeartbeatWriter(Path(path) if path else None)


def read_heartbeat(path: Path, started: float) -> Heartbeat:
    """Return the last beat; before the first, the process is starting."""
    try:
        changed, text = path.stat().st_mtime, path.read_text()
    except FileNotFoundError:
        return Heartbeat(0, "starting", time.time() - started)
    steps, _, doing = text.strip().partition(" ")
    return Heartbeat(int(steps), doing, time.time() - max(changed, started))


def read_announced_exit(path: Path) -> int | None:
    """Return the exit code that a process has announced by `announce_exit`, None before."""
    try:
        text = _exit_file(path).read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdecimal() else None


def _exit_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.left")


def tie_to_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """From now on die, with all children, when the launcher does, however it ends: its end of a pipe closes then.

    The kernel kills; a thread that reads the pipe would wait for the interpreter, which a rank in an all-reduce holds.
    """
    descriptor = environment.get(TETHER)
    if not descriptor:
        return
    pipe, group = (
        os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY),
        os.getpgrp(),
    )  # the inherited one is shared by all
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -group)
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # closed before the kernel was asked
        os.killpg(group, signal.SIGKILL)
