"""Signs of life: a rank writes down what it is doing, its launcher reads how long ago. No rank outlives its launcher.

A rank beats only where its work goes on, never from a thread of its own, so a rank that hangs falls silent.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PULSE, TETHER = "CONVNEXT_PULSE", "CONVNEXT_TETHER"


@dataclass(frozen=True)
class Beat:
    """The last sign of life: what was being done, after how many steps, `silent_s` seconds ago."""

    steps: int
    doing: str
    silent_s: float


class Pulse:
    """Writes this process's signs of life; without a path, nowhere."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._steps = 0

    def beat(self, doing: str, steps: int = 0) -> None:
        """Tell that the process works: it has finished `steps` more steps and is `doing` something."""
        self._steps += steps
        if self._path is not None:
            self._path.write_text(f"{self._steps} {doing}\n")


def own_pulse(environment: Mapping[str, str] = os.environ) -> Pulse:
    """Return where this process's launcher, if it has one, wants its signs of life."""
    path = environment.get(PULSE)
    return Pulse(Path(path) if path else None)


def read_beat(path: Path, started: float) -> Beat:
    """Return the last beat; before the first, and while one is being written, the process is starting or working."""
    try:
        changed, text = path.stat().st_mtime, path.read_text()
    except FileNotFoundError:
        return Beat(0, "starting", time.time() - started)
    steps, _, doing = text.strip().partition(" ")
    return Beat(int(steps) if steps.isdigit() else 0, doing or "working", time.time() - max(changed, started))


def tie_to_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """From now on die, with all children, when the launcher does, however it ends: its end of a pipe closes then."""
    descriptor = environment.get(TETHER)
    if descriptor:
        threading.Thread(target=_die_with, args=(int(descriptor),), name="tether", daemon=True).start()


def _die_with(descriptor: int) -> None:
    os.read(descriptor, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)
