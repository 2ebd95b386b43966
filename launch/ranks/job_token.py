"""The secret that the launchers of one job share, from the environment or from a file in a folder of all machines.

Machine 0 draws a new token for each job and writes the file; the other launchers read it again each time they connect,
because the file of an earlier job may still be there.
"""

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.rank import Layout

JOB_TOKEN, TOKEN_FILE = "CONVNEXT_JOB_TOKEN", "job-token"
_SHORTEST = 32  # who records a connection can try tokens; 128 random bits in hexadecimal have this many characters
_LONGEST_BYTES = 4096
_HOW_TO_SET = f"set {JOB_TOKEN} to the same random text on all machines (`openssl rand -hex 32` prints one)"


class JobToken:
    """A token, or the path of the file that will hold it."""

    def __init__(self, value: bytes | None, path: Path | None = None) -> None:
        self._value, self._path = value, path
        self._last_read: bytes | None = None
        self._is_published = False

    @property
    def source(self) -> str:
        """Return the variable or the file that the token comes from."""
        return JOB_TOKEN if self._path is None else str(self._path)

    @property
    def advice(self) -> str:
        """Return what to do when the launchers of a job do not have the same token."""
        if self._path is None:
            return _HOW_TO_SET
        return f"share this folder between the machines, readable by the same user, or {_HOW_TO_SET}"

    def read(self) -> bytes | None:
        """Return the token, or None while there is no file that this process can read."""
        self._last_read = self._value or _read_regular(self._path)
        return self._last_read

    def confirm(self) -> None:
        """Keep the token that was read last: machine 0 has it, too, and a later job may replace the file."""
        self._value = self._last_read

    def publish(self) -> None:
        """Write the file, on machine 0, unless this was done before. Raises LaunchError if that is impossible."""
        if self._path is None or self._value is None or self._is_published:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _write_private(self._path, self._value)
        except OSError as error:
            raise LaunchError(
                f"{self._path}: the job's token cannot be written ({error.strerror}); {_HOW_TO_SET}"
            ) from None
        self._is_published = True

    def withdraw(self) -> None:
        """Remove the file that `publish` wrote, unless a later job has replaced it."""
        if self._is_published and self._path is not None and _read_regular(self._path) == self._value:
            self._path.unlink(missing_ok=True)


def choose_token(layout: Layout, shared: Path | None, environment: Mapping[str, str] = os.environ) -> JobToken:
    """Return the token of a job; `shared` is a folder that all machines see, or None.

    Raises LaunchError for a token that is too short, and on several machines without a token or folder.
    """
    if layout.nodes == 1:
        return JobToken(_draw())  # nothing listens
    given = environment.get(JOB_TOKEN)
    if given is not None:
        if not _SHORTEST <= len(given.strip()) <= _LONGEST_BYTES:
            raise LaunchError(
                f"{JOB_TOKEN} has {len(given.strip())} characters: must have {_SHORTEST} to {_LONGEST_BYTES}, because "
                f"a shorter one can be guessed; {_HOW_TO_SET}"
            )
        return JobToken(os.fsencode(given.strip()))
    if shared is None:
        raise LaunchError(
            f"--nodes {layout.nodes}: this command has no folder in which the machines could share a token; "
            f"{_HOW_TO_SET}"
        )
    return JobToken(_draw() if layout.node_rank == 0 else None, shared / TOKEN_FILE)


@contextmanager
def job_token(layout: Layout, shared: Path | None, environment: Mapping[str, str] = os.environ) -> Iterator[JobToken]:
    """Yield `choose_token(...)`, and remove the token's file at the end."""
    token = choose_token(layout, shared, environment)
    try:
        yield token
    finally:
        with suppress(OSError):  # the next job replaces it
            token.withdraw()


def _draw() -> bytes:
    return secrets.token_hex(32).encode()


def _write_private(path: Path, value: bytes) -> None:
    """Write a file that only this user can read, whole or not at all. Raises OSError, LaunchError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)  # with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                raise LaunchError(f"{path}: other users could read it on this file system; {_HOW_TO_SET}")
            file.write(value + b"\n")
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read_regular(path: Path | None) -> bytes | None:
    """Return what a file holds, or None for no file, an empty one, a link, or anything that could block a reader."""
    try:
        descriptor = os.open(path or "", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return (os.read(descriptor, _LONGEST_BYTES).strip() or None) if is_regular else None
    except OSError:
        return None
    finally:
        os.close(descriptor)
