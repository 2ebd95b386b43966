"""The errors that a user can cause and fix: each becomes a line and an exit code, never a traceback."""

import errno

# The machine failed, not the input: exit code 74 tells a scheduler to try again (DECISIONS, 2026-11-24).
MACHINE_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)


class ExpectedError(Exception):
    """A failure that a user can understand and fix; every other exception is a bug."""

    exit_code = 1

    def lines(self) -> list[str]:
        """Return the lines of the message; more than one only where an error names several things to correct."""
        return [str(self)]


class ArtefactError(ExpectedError):
    """A directory that is missing, unfinished or damaged, or belongs to another run or version."""


class FailedError(ArtefactError):
    """The machine failed, not the input (full or failing disk, a limit). Fix it and run the same command to resume."""

    exit_code = 74  # EX_IOERR of sysexits.h (DECISIONS, 2026-11-24)


class Interrupted(ExpectedError):
    """A signal stopped the work between two units; the same command resumes it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: a batch system may start the job again
