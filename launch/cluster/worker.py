"""The processes on the nodes of a cluster: workers that do one unit after another, and a tally of their progress.

The classes are plain; the driver makes actors of them. This module must not import Ray or MindSpore.
"""

import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.launch.cluster.nodes import refuse_other_software, software_here
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.executor import OnProgress

_REPORT_SECONDS = 1.0  # one message to the tally per second, not per image


class ProgressTally:
    """The progress of the running units, {unit: inputs done}; only the last attempt of a retried unit counts."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[int, int]] = {}

    def report(self, unit: int, attempt: int, done: int) -> None:
        """Store that an attempt has done `done` inputs; reports of an earlier attempt are ignored."""
        if attempt >= self._done.get(unit, (0, 0))[0]:
            self._done[unit] = (attempt, done)

    def read(self) -> dict[int, int]:
        """Return the inputs done for each unit that was reported and not dropped."""
        return {unit: done for unit, (_, done) in self._done.items()}

    def drop(self, unit: int) -> None:
        """Forget a unit that is done."""
        self._done.pop(unit, None)


class Worker:
    """A process on a node that does units; expensive objects, such as a network, stay in it between units."""

    def __init__(self) -> None:
        self._tally: Any = None
        self._core_lock: Any = None

    def set_up(self, software: Mapping[str, str], tally: Any, cores: int, out: str) -> str:
        """Get ready for units and return the host's name.

        With `cores`, bind this process to that many cores of its node, shared with no other worker of ours. Raises
        LaunchError when this node has other software than the driver or does not see its output folder.
        """
        refuse_other_software(socket.gethostname(), software, software_here())
        if not Path(out).is_dir():
            raise LaunchError(
                f"node {socket.gethostname()}: does not see the output folder {out}; mount it under that path, "
                f"or stop that node; finished units are kept: run the same command again to resume"
            )
        os.environ.setdefault("GLOG_v", "3")  # hides MindSpore's warnings
        self._tally = tally
        if cores:
            self._core_lock = take_cores(cores, Path(tempfile.gettempdir()))
        return socket.gethostname()

    def run_unit(self, function: Callable[[Any, OnProgress], None], task: Any, unit: int, attempt: int) -> int:
        """Do one unit and return the number of inputs done; report the number to the tally about once a second."""
        done, last_report_s = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, last_report_s
            done += count
            if time.monotonic() - last_report_s > _REPORT_SECONDS:
                last_report_s = time.monotonic()
                self._tally.report.remote(unit, attempt, done)

        function(task, advance)
        return done


def take_cores(count: int, folder: Path) -> Any:
    """Bind this process to `count` cores that no other process has taken with this function, and return their lock.

    The kernel releases the lock when the process ends. If no such cores are left, bind to none and return None.
    """
    cores = sorted(os.sched_getaffinity(0))
    for slot in range(len(cores) // count):
        lock = (folder / f"convnext_imagenet-{os.getuid()}-{count}-cores-{slot}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        os.sched_setaffinity(0, cores[slot * count : (slot + 1) * count])
        return lock
    return None
