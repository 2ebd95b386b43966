"""The most memory that this process has held, as the kernel counts it for this program alone.

`ru_maxrss` will not do: a program inherits it from the process that started it, which may be the larger one.
"""

from pathlib import Path

_PROCESS = Path("/proc/self")


def forget_peak() -> None:
    """Begin anew: the peak is what the process holds now."""
    (_PROCESS / "clear_refs").write_text("5")


def peak_kib() -> int:
    """The peak resident set in KiB."""
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
