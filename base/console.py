"""What all commands share on the terminal: one-line errors, progress bars, log lines. Knows nothing of their work."""

import contextlib
import copy
import logging
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from convnext_imagenet.base.cli_output import JsonBar, is_drawn, open_bar
from convnext_imagenet.base.errors import MACHINE_ERRORS, ExpectedError, FailedError
from convnext_imagenet.base.own_process import own_process
from convnext_imagenet.base.schemes import is_uri


class Program(click.Group):
    """The commands of one program."""

    def main(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """Run the program; with `args`, it was called from Python, whose process is not ours."""
        if args is not None:
            return super().main(args, *more, **options)
        own_process()
        with expected_errors():  # help may be printed to a full disk
            return super().main(None, *more, **options)


class RenamedOption(click.Option):
    """An option whose help shows its first name only; the other names are old spellings that keep working.

    Use `click.option("--new", "--old", cls=RenamedOption)`; of both on one command line, the last wins.
    """

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the line of --help, as if there were no old spelling."""
        shown = copy.copy(self)
        shown.opts = self.opts[:1]
        return super(RenamedOption, shown).get_help_record(ctx)


class FiniteRange(click.FloatRange):
    """A number within bounds. NaN, which passes every comparison with a bound, and infinity are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the value as a number. Raises click.BadParameter for one out of bounds or not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class LocalPath(click.Path):
    """A path of this machine, as a Path. A URI is refused: as a path it would name a folder such as `s3:`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as a Path. Raises click.BadParameter for a URI, without showing it."""
        if is_uri(str(value)):
            self.fail(
                "is a URI, expected a path of this machine; `convnext-records pull` and `push` copy RECORDS from and "
                "to a store", param, ctx,
            )  # fmt: skip
        return super().convert(value, param, ctx)


_PASSWORD = re.compile(r"(?<=:/)(/?)[^\s/@]*:[^\s@]*@")  # also behind one slash, as a Path has it


@contextlib.contextmanager
def expected_errors() -> Iterator[None]:
    """Print an expected failure and exit with its code; a bug keeps its traceback.

    Raises SystemExit with the error's exit code.
    """
    try:
        yield
    except (ExpectedError, OSError, MemoryError) as error:
        line = error_line(error)
        if line is None:
            raise
        click.echo(line, err=True)
        sys.exit(_exit_code(error))


def error_line(error: BaseException) -> str | None:
    """Return the line in which a command tells of an expected failure, or None for a bug.

    It shows no user and password of a URI, not even if the command took the URI for a path.
    """
    if isinstance(error, ExpectedError):
        return _PASSWORD.sub(r"\1", "Error: " + "\n".join(" ".join(line.splitlines()) for line in error.lines()))
    if isinstance(error, OSError) and not (error.filename is None and error.errno is None):
        return _PASSWORD.sub(r"\1", f"Error: {error.filename or 'input or output'}: {error.strerror}")
    if isinstance(error, MemoryError):
        asked = f" ({error})" if str(error) else ""
        return f"Error: out of memory{asked}; ask for less, such as a smaller network or batch, or free memory"
    return None  # an OSError without either was raised by a library, not by the system


def _exit_code(error: ExpectedError | OSError | MemoryError) -> int:
    if isinstance(error, ExpectedError):
        return error.exit_code
    return FailedError.exit_code if isinstance(error, MemoryError) or error.errno in MACHINE_ERRORS else 1


class ProgressBar:
    """A bar on standard error: calling it with n advances it by n, `count_unit` counts one unit in its text."""

    def __init__(self, bar: tqdm | JsonBar, units: str) -> None:
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
    """Show a bar with rate and time left; `units`, such as "of 64 shards", adds the count of finished units.

    An error before the first unit leaves no empty bar, so in a file the bar is drawn only when something is counted.
    """
    with open_bar(total, desc, unit, is_drawn_empty=sys.stderr.isatty()) as bar:
        if units:
            bar.set_postfix_str(f"0 {units}", refresh=False)
        yield ProgressBar(bar, units)


@contextlib.contextmanager
def own_lines() -> Iterator[None]:
    """Let lines that are printed inside stand apart from progress bars, on a terminal and in a file."""
    bars = list(getattr(tqdm, "_instances", ()))  # tqdm's own external_write_mode misses bars once MindSpore has
    if not sys.stderr.isatty():  # replaced sys.stderr, which it does while it compiles
        with tqdm.get_lock():  # so that no bar is drawn between the end of its line and the lines of another thread
            _end_lines(bars)
            yield
        return
    with tqdm.get_lock():
        for bar in bars:
            bar.clear(nolock=True)
        yield
        for bar in bars:
            bar.refresh(nolock=True)


def _end_lines(bars: list[tqdm]) -> None:
    """End the line of the bars, because a file cannot be cleared, unless nothing was drawn since it last ended."""
    drawn = [(id(bar), bar.last_print_t) for bar in bars if is_drawn(bar)]
    if drawn and drawn != _ended:
        click.echo(err=True)
    _ended[:] = drawn


_ended: list[tuple[int, float | None]] = []


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
