"""Heartbeats: a rank writes what it is doing, and its launcher reads how old that is. No rank outlives its launcher.

A rank writes only where its work advances, never from a separate thread, so a rank that hangs stops writing.
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

# Set by the launcher for each rank: the heartbeat file, and a pipe that closes when the launcher ends.
HEARTBEAT_FILE, LAUNCHER_PIPE = "CONVNEXT_HEARTBEAT", "CONVNEXT_LAUNCHER_PIPE"


@dataclass(frozen=True)
class Heartbeat:
    """A rank's last heartbeat: the steps finished so far, what it was doing, and the heartbeat's age in seconds."""

    steps: int
    doing: str
    age_s: float


class HeartbeatWriter:
    """Writes this process's heartbeats to a file; without a path it writes nothing."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._steps = 0

    def beat(self, doing: str, steps: int = 0) -> None:
        """Write a heartbeat: this process has finished `steps` more steps and is now `doing` something."""
        self._steps += steps
        if self._path is not None:
            new = self._path.with_name(f"{self._path.name}.new")
            try:
                new.write_text(f"{self._steps} {doing}\n")
                new.replace(self._path)  # the launcher must never read a half-written file
            except OSError:  # a full disk must not stop a run, and a new time stamp takes no space
                with contextlib.suppress(OSError):
                    os.utime(self._path)

    def announce_exit(self, code: int) -> None:
        """Write that all work is done or saved, and that the process is about to exit with `code`.

        MindSpore shuts down after that; a crash or a hang in its shutdown does not count. Raises OSError.
        """
        if self._path is not None:
            _exit_file(self._path).write_text(f"{code}\n")


def own_heartbeat(environment: Mapping[str, str] = os.environ) -> HeartbeatWriter:
    """Return the writer of this process's heartbeats; without a launcher it writes nothing."""
    path = environment.get(HEARTBEAT_FILE)
    return HeartbeatWriter(Path(path) if path else None)


def read_heartbeat(path: Path, started: float) -> Heartbeat:
    """Return the last heartbeat of a process that began at time `started`; before its first it is "starting".

    An old file of an earlier attempt does not count as older than the process.
    """
    try:
        changed, text = path.stat().st_mtime, path.read_text()
    except FileNotFoundError:
        return Heartbeat(0, "starting", time.time() - started)
    steps, _, doing = text.strip().partition(" ")
    return Heartbeat(int(steps), doing, time.time() - max(changed, started))


def read_announced_exit(path: Path) -> int | None:
    """Return the exit code that a process announced with `announce_exit`, or None if it has not."""
    try:
        text = _exit_file(path).read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdecimal() else None


def tie_to_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Let the kernel kill this process and its children when the launcher ends, because its end of a pipe then closes.

    A thread that reads the pipe would not do: it waits for the interpreter, which a rank in an all-reduce holds.
    """
    descriptor = environment.get(LAUNCHER_PIPE)
    if not descriptor:
        return
    # Opened again, because all ranks share the settings of the inherited descriptor.
    pipe, group = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY), os.getpgrp()
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -group)
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it closed before we asked the kernel
        os.killpg(group, signal.SIGKILL)


def _exit_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.exit")
