"""The errors that a user can cause and fix: one line on the screen and an exit code, never a traceback."""


class ExpectedError(Exception):
    """A failure that a user can understand and undo; every other exception is a bug."""

    exit_code = 1


class ArtefactError(ExpectedError):
    """A directory that is missing, unfinished, damaged, of another run or of another version."""


class FailedError(ArtefactError):
    """The machine gave out, not the input: a full disk, a failing one, a limit; once it is mended, the same command
    goes on."""

    exit_code = 74


class Interrupted(ExpectedError):
    """Work that a signal stopped between two units; the same command goes on from there."""

    exit_code = 75
