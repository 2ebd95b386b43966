"""What a process of ours does to start and to end sooner; one that imports the package as a library is left as it is.

MindSpore's import makes a million objects that stay. Searching them for garbage takes a sixth of the import, and again
half a second when Python ends. Where pandas is installed, PyArrow imports it for its first Python value, which takes as
long again; `base/parquet.py` forbids it (DECISIONS, 2026-11-30).
"""

import atexit
import gc
import os
import time
from pathlib import Path

_USUAL = gc.get_threshold()
_SELDOM = 50_000  # new objects before the next search for garbage; Python's own number is 700
_STARTED = 19  # in /proc/self/stat, counted behind the name: ticks from the boot to the start of the process
_is_own = False


def own_process() -> None:
    """Say that this process is ours: it seldom searches for garbage until `has_started`, and never when it ends."""
    global _is_own
    if not _is_own:
        _is_own = True
        gc.set_threshold(_SELDOM, *_USUAL[1:])
        atexit.register(gc.freeze)


def is_own_process() -> bool:
    """Return whether this process is ours."""
    return _is_own


def has_started() -> None:
    """Search for garbage as often as Python does, if the process is ours, but not among the objects that exist now."""
    if _is_own:
        gc.freeze()
        gc.set_threshold(*_USUAL)


def command_began() -> float:
    """Return when this process began, by `time.monotonic`; now, if it is not ours or the system does not tell."""
    now = time.monotonic()
    if not _is_own:
        return now
    try:
        stat = Path("/proc/self/stat").read_text(encoding="utf-8")
        ticks = int(stat.rpartition(")")[2].split()[_STARTED])
        return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return now
