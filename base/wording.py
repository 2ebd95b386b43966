"""Numbers, times and commands as they stand in messages and on pages."""

import os
import shlex
import sys


def plural(count: int, noun: str) -> str:
    """Return the number with its noun: 1 class, 2 classes, 0 images."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def number(value: object) -> str:
    """Return an integer with commas between thousands, anything else as its text."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def share(value: float | None) -> str:
    """Return a fraction 0..1 as a percentage with one decimal; "-" for None."""
    return "-" if value is None else f"{value:.1%}"


def duration(seconds: float) -> str:
    """Return a time as words, such as 45 s, 2.5 minutes, 12 minutes, 3.5 hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.{int(seconds < 600)}f} minutes"
    return f"{seconds / 3600:,.1f} hours"


def as_word(place: object) -> str:
    """Return a path or URI as one word of a shell command, quoted if it needs quotes."""
    return shlex.quote(str(place))


def install_command(package: str) -> str:
    """Return the shell command that installs a package, such as "convnext_imagenet[ray]", for the running Python."""
    return f"{as_word(sys.executable)} -m pip install {as_word(package)}"  # a bare `pip` may be another's


def to_type(target: str, command: str) -> str:
    """Return what a user types for a step: a target under `make`, which sets CONVNEXT_MAKE, elsewhere the command."""
    return f"make {target}" if os.environ.get("CONVNEXT_MAKE") else command
