"""What all commands share on the terminal: one-line errors, progress bars, log lines. Knows nothing of their work."""

import contextlib
import copy
import errno
import logging
import sys
from collections.abc import Iterator

import click
from tqdm import tqdm

from convnext_imagenet.base.errors import ExpectedError, FailedError

# The machine failed, not the input: exit code 74 tells a scheduler to try again (DECISIONS, 2026-11-24).
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
    """Print an expected failure as one line and exit with its code; a bug keeps its traceback.

    Raises SystemExit with the error's exit code.
    """
    try:
        yield
    except ExpectedError as error:
        click.echo("Error: " + " ".join(str(error).splitlines()), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno is None:  # raised by a library, not by the system: a bug
            raise
        click.echo(f"Error: {error.filename or 'input or output'}: {error.strerror}", err=True)
        sys.exit(FailedError.exit_code if error.errno in _MACHINE_ERRORS else 1)


class ProgressBar:
    """A bar on standard error: calling it with n advances it by n, `count_unit` counts one unit in its text."""

    def __init__(self, bar: tqdm, units: str) -> None:
        self._bar, self._units, self._done = bar, units, 0

    def __call__(self, count: int) -> None:
        self._bar.update(count)

    def note(self, text: str) -> None:
        """Show a few words behind the bar."""
        self._bar.set_postfix_str(text, refresh=False)

    def count_unit(self) -> None:
        """Count one finished unit, such as a shard."""
        self._done += 1
        self._bar.set_postfix_str(f"{self._done} {self._units}")


@contextlib.contextmanager
def progress(total: int | None, desc: str, unit: str = "img", units: str = "") -> Iterator[ProgressBar]:
    """Show a bar with rate and time left; `units`, such as "of 64 shards", adds the count of finished units."""
    with tqdm(total=total, desc=desc, unit=unit, dynamic_ncols=True, mininterval=0.5) as bar:
        if units:
            bar.set_postfix_str(f"0 {units}", refresh=False)
        yield ProgressBar(bar, units)


@contextlib.contextmanager
def own_lines() -> Iterator[None]:
    """Let lines that are printed inside stand apart from progress bars, on a terminal and in a file."""
    bars = list(getattr(tqdm, "_instances", ()))  # tqdm's own external_write_mode misses bars once MindSpore has
    if not sys.stderr.isatty():  # replaced sys.stderr, which it does while it compiles
        if bars:
            click.echo(err=True)  # a file cannot be cleared, so the bar's line ends here
        yield
        return
    with tqdm.get_lock():
        for bar in bars:
            bar.clear(nolock=True)
        yield
        for bar in bars:
            bar.refresh(nolock=True)


class _Screen(logging.Handler):
    """Prints log lines on their own lines to the current standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        with own_lines():
            click.echo(self.format(record), err=True)


def show_log_lines() -> None:
    """Print what our packages log at level INFO and above; a second call changes nothing."""
    ours = logging.getLogger("convnext_imagenet")
    if not any(isinstance(handler, _Screen) for handler in ours.handlers):
        ours.addHandler(_Screen())
        ours.setLevel(logging.INFO)
