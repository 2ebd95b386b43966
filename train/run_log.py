"""RUN/train.log: every line that a run prints, each with its UTC time, over all its starts. Progress bars are left out.

A command that is refused must write nothing into a directory that is not its own. So lines wait in memory until the run
holds its directory.
"""

import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from convnext_imagenet.base.errors import FailedError

LOG_NAME = "train.log"
_MOST_WAITING = 1000  # lines of a process that never opens the file


@contextlib.contextmanager
def run_log() -> Iterator["RunLog"]:
    """Yield a log that also gets the lines of our packages' loggers."""
    log, ours = RunLog(), logging.getLogger("convnext_imagenet")
    ours.addHandler(log)
    try:
        yield log
    finally:
        ours.removeHandler(log)
        log.close()


class RunLog(logging.Handler):
    """Appends lines to a file once it is open. Each line is one write, so a kill loses none that was printed."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._path: Path | None = None
        self._descriptor = -1

    def open(self, path: Path) -> None:
        """Append to `path` what waits and what follows. Raises FailedError when it cannot be written."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            self._end_cut_line()
        except OSError as error:
            raise self._failed(path, error) from error
        self._path = path
        waiting = "".join(self._waiting)
        self._waiting.clear()
        self._write(waiting)

    @contextlib.contextmanager
    def of_launcher(self, run: Path) -> Iterator[None]:
        """If the block exits, because this process was the launcher of ranks, append what waits to their log.

        Ranks have begun the run if the log has grown; otherwise it is of another run, or absent, and stays as it is.
        """
        before = _size(run / LOG_NAME)
        try:
            yield
        except SystemExit:
            if _size(run / LOG_NAME) > before:
                self.open(run / LOG_NAME)
            raise

    def add(self, text: str) -> None:
        """Append each line of `text` with the time. Raises FailedError when it cannot be written, once."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        stamped = "".join(f"{now}Z {line}\n" for line in text.splitlines())
        if self._path is None:
            self._waiting.append(stamped)
        else:
            self._write(stamped)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line of Python's logging."""
        self.add(self.format(record))

    def close(self) -> None:
        """Close the file."""
        self._close_file()
        super().close()

    def _write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        try:
            while self._descriptor >= 0 and data:
                data = data[os.write(self._descriptor, data) :]  # on a full disk the first write may be a part
        except OSError as error:
            self._close_file()  # so that the line about this failure is not a failure, too
            raise self._failed(self._path, error) from error

    def _end_cut_line(self) -> None:
        """End the line that a full disk has cut short."""
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")

    def _close_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # a network file system may tell of a full disk again
                os.close(descriptor)

    def _failed(self, path: Path | None, error: OSError) -> FailedError:
        return FailedError(
            f"{path}: cannot be written ({error.strerror}); free disk space or restore the permission, "
            f"then run the same command again to resume"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
