"""The habits that every command line here shares: one-line errors, progress bars, log lines."""

import contextlib
import copy
import errno
import logging
import sys
from collections.abc import Iterator

import click
from tqdm import tqdm

from convnext_imagenet.base.errors import ExpectedError, FailedError

_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class RenamedOption(click.Option):
    """An option whose help shows its first name only; the other names are old spellings that keep working.

    Use `click.option("--new", "--old", cls=RenamedOption)`; of both on one command line, the last wins.
    """

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the line of --help, as if there were no old spelling."""
        shown = copy.copy(self)
        shown.opts = self.opts[:1]
        return super(RenamedOption, shown).get_help_record(ctx)


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Print an expected failure as one line and leave with its exit code; bugs keep their traceback."""
    try:
        yield
    except ExpectedError as error:
        click.echo("Error: " + " ".join(str(error).splitlines()), err=True)
        sys.exit(error.exit_code)
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
