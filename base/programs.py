"""Runs another of our programs to its end, as a user would, such as `predict` for an audit; and names this one.

Knows none of the rooms.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from convnext_imagenet.base.errors import ArtefactError, ExpectedError, FailedError, Interrupted

_POLL_S = 0.2
# The kernel kills the program when its parent dies, so that the same command, started again, finds no second writer.
_UMBRELLA = "import sys\nfrom convnext_imagenet.base.cli_umbrella import main\nsys.argv[0] = 'convnext'\nmain()\n"
_START = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "sys.exit(1) if os.getppid() != int(sys.argv.pop(1)) else None\n"
) + _UMBRELLA
_STANDARD_ERROR = 2


def own_command() -> list[str]:
    """Return the command line that runs this program again; `run_program` has started it without a script."""
    if Path(sys.argv[0]).is_file():
        return [sys.executable, *sys.argv]
    return [sys.executable, "-P", "-c", _UMBRELLA, *sys.argv[1:]]


def run_program(arguments: Sequence[str], is_stopped: Callable[[], bool], returns_output: bool = False) -> str:
    """Run `convnext` with these arguments and return its output if asked; otherwise it goes to standard error.

    When `is_stopped`, the program gets SIGTERM once, so that it saves its work. Raises Interrupted when it was stopped,
    and the error with its exit code when it fails; its own lines are on standard error by then.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _START, str(os.getpid()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if returns_output else _STANDARD_ERROR,
        start_new_session=True,  # a terminal's signals are for the command, which passes one of them on
        encoding="utf-8",
    )
    try:
        output = _wait(process, is_stopped)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise _failure(process.returncode, f"`convnext {' '.join(arguments[:2])}`")
    return output


def _wait(process: subprocess.Popen[str], is_stopped: Callable[[], bool]) -> str:
    was_told = False
    while True:
        try:
            return process.communicate(timeout=_POLL_S)[0] or ""
        except subprocess.TimeoutExpired:
            if is_stopped() and not was_told:
                process.send_signal(signal.SIGTERM)
                was_told = True


def _failure(code: int, program: str) -> ExpectedError:
    if code == Interrupted.exit_code or -code in (signal.SIGTERM, signal.SIGINT):
        return Interrupted(f"{program} was stopped by a signal; run the same command again to resume")
    if code == FailedError.exit_code or code < 0:
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        return FailedError(f"{program} ended with {reason}; run the same command again to resume")
    return ArtefactError(f"{program} ended with exit code {code}; its line above says why")
