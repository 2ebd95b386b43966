"""What runs on the nodes of a cluster: workers that do units one after another, and one tally of how far they are.

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

_TELL_SECONDS = 1.0


class Tally:
    """How far the units in work are: {unit: inputs done}; of a unit that is tried again its last attempt counts."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[int, int]] = {}

    def tell(self, unit: int, attempt: int, done: int) -> None:
        """Note that an attempt has done so many inputs; an attempt given up is not listened to."""
        if attempt >= self._done.get(unit, (0, 0))[0]:
            self._done[unit] = (attempt, done)

    def read(self) -> dict[int, int]:
        """The inputs done of each unit that was heard of and not dropped."""
        return {unit: done for unit, (_, done) in self._done.items()}

    def drop(self, unit: int) -> None:
        """Forget a unit that is done."""
        self._done.pop(unit, None)


class Worker:
    """A process on some node that does units; what is dear to set up stays in it from one unit to the next."""

    def __init__(self) -> None:
        self._tally: Any = None
        self._seat: Any = None

    def open(self, software: Mapping[str, str], tally: Any, cores: int, out: str) -> str:
        """Make ready and return the host's name; LaunchError when this node has other software than the driver,
        or does not see its output folder.

        With `cores`, this process keeps to so many cores of its node that no other worker of ours keeps to.
        """
        refuse_other_software(socket.gethostname(), software, software_here())
        if not Path(out).is_dir():
            raise LaunchError(
                f"node {socket.gethostname()}: does not see the output folder {out}; mount it under that path, "
                f"or end that node; finished units are kept, run the same command again"
            )
        os.environ.setdefault("GLOG_v", "3")
        self._tally = tally
        if cores:
            self._seat = take_cores(cores, Path(tempfile.gettempdir()))
        return socket.gethostname()

    def do(self, function: Callable[[Any, OnProgress], None], task: Any, unit: int, attempt: int) -> int:
        """Do one unit and return the number of inputs done; the tally hears of them about once a second."""
        done, told = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, told
            done += count
            if time.monotonic() - told > _TELL_SECONDS:
                told = time.monotonic()
                self._tally.tell.remote(unit, attempt, done)

        function(task, advance)
        return done


def take_cores(count: int, folder: Path) -> Any:
    """Keep this process to `count` cores that no other process took by this function; returns what holds them.

    The holder is a lock that the kernel lets go when the process ends. All cores are kept where none are left.
    """
    cores = sorted(os.sched_getaffinity(0))
    for seat in range(len(cores) // count):
        lock = (folder / f"convnext_imagenet-{os.getuid()}-{count}-cores-{seat}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        os.sched_setaffinity(0, cores[seat * count : (seat + 1) * count])
        return lock
    return None
