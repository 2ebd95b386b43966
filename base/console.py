"""The habits that every command line here shares: one-line errors, progress bars, log lines."""

import contextlib
import errno
import logging
import sys
from collections.abc import Iterator

import click
from tqdm import tqdm

from convnext_imagenet.base.errors import ExpectedError, FailedError

_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@contextlib.contextmanager
def expected_errors(*also: type[Exception]) -> Iterator[None]:
    """Print an expected failure as one line and leave with its exit code; bugs keep their traceback."""
    expected: tuple[type[Exception], ...] = (ExpectedError, *also)
    try:
        yield
    except expected as error:
        click.echo("Error: " + " ".join(str(error).splitlines()), err=True)
        sys.exit(getattr(error, "exit_code", 1))
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        click.echo(f"Error: {error.filename or 'input or output'}: {error.strerror}", err=True)
        sys.exit(FailedError.exit_code if error.errno in _MACHINE_ERRORS else 1)


class ProgressBar:
    """A bar on standard error; called with n it moves on by n, and `count_unit` counts one more unit in its text."""

    def __init__(self, bar: tqdm, units: str) -> None:
        self._bar, self._units, self._done = bar, units, 0

    def __call__(self, count: int) -> None:
        self._bar.update(count)

    def count_unit(self) -> None:
        """Count one more of the units, such as shards."""
        self._done += 1
        self._bar.set_postfix_str(f"{self._done} {self._units}")


@contextlib.contextmanager
def progress(total: int | None, desc: str, unit: str = "img", units: str = "") -> Iterator[ProgressBar]:
    """A bar with rate and time left, and with the number of finished `units`, such as "of 64 shards", where given."""
    with tqdm(total=total, desc=desc, unit=unit, dynamic_ncols=True, mininterval=0.5) as bar:
        if units:
            bar.set_postfix_str(f"0 {units}", refresh=False)
        yield ProgressBar(bar, units)


class _Screen(logging.Handler):
    """Prints on the standard error of the moment, past a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def show_log_lines() -> None:
    """Show what our packages log from level INFO up; a second call changes nothing."""
    ours = logging.getLogger("convnext_imagenet")
    if not any(isinstance(handler, _Screen) for handler in ours.handlers):
        ours.addHandler(_Screen())
        ours.setLevel(logging.INFO)
