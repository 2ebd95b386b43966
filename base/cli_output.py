"""What programs read instead of people: the result of a command as one JSON object, and progress as JSON lines.

docs/json.md has the keys of both. On request only; without these options a command prints what it always printed.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import click
from tqdm import tqdm

BAR, JSON_LINES = "bar", "json"
_SECONDS_BETWEEN_LINES = 0.5
_NO_TIME_S = 1e-3  # tqdm draws an empty bar unless it has to wait
_style = BAR
_redirected: TextIO | None = None  # standard output, while it goes to standard error


def json_option(text: str = "Print one JSON object on standard output, and everything else on standard error.") -> Any:
    """Give a command the flag --json, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def progress_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option --progress, which `open_bar` obeys."""
    return click.option(
        "--progress",
        type=click.Choice([BAR, JSON_LINES]),
        default=BAR,
        show_default=True,
        expose_value=False,
        callback=lambda context, option, value: _choose(value),
        help="How progress appears on standard error: a bar, or lines of JSON for other programs.",
    )(command)


@contextlib.contextmanager
def result_on_stdout(as_json: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that prints the result of a command as one JSON object; without `as_json` it prints nothing.

    With `as_json`, whatever else is printed inside to standard output goes to standard error.
    """
    if not as_json:
        yield lambda result: None
        return
    global _redirected
    output = _redirected = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield lambda result: click.echo(to_line(result), file=output)
    finally:
        _redirected = None


def as_redirected() -> contextlib.AbstractContextManager[object]:
    """Undo `result_on_stdout` inside: for a process that copies the output of another one, which prints the object."""
    return contextlib.redirect_stdout(_redirected or sys.stdout)


def to_line(result: Mapping[str, Any]) -> str:
    """Return a result as one line of JSON; paths become strings, and numbers that are not finite become null."""
    return json.dumps(_plain(result), ensure_ascii=False, allow_nan=False)


def open_bar(
    total: int | None, desc: str, unit: str, initial: int = 0, is_drawn_empty: bool = True
) -> "tqdm | JsonBar":
    """Return a new bar in the style that --progress has chosen; `is_drawn_empty`: drawn before anything is counted."""
    if _style == JSON_LINES:
        return JsonBar(total, desc, unit, initial)
    delay_s = 0.0 if is_drawn_empty else _NO_TIME_S
    style = {"dynamic_ncols": True, "mininterval": 0.5, "unit_scale": unit == "B"}  # bytes as MB and GB
    return _Bar(total=total, initial=initial, desc=desc, unit=unit, delay=delay_s, **style)


def is_drawn(bar: tqdm) -> bool:
    """Return whether a bar of `open_bar` has been drawn."""
    start_s = getattr(bar, "start_t", None)  # missing while another thread makes the bar
    return start_s is not None and bool(bar.last_print_t >= start_s + bar.delay)


class _Bar(tqdm):
    """A bar that is removed if nothing was counted, because of an error or because there was nothing to count."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        has_counted = not self.disable and self.n != self.initial  # a disabled bar has neither count nor start
        if has_counted or (kind is None and self.total):
            self.delay = 0.0  # drawn once more, or for the first time
        else:
            self.leave = False
        super().__exit__(kind, error, trace)


class JsonBar:
    """Progress as lines of JSON on standard error, at most two a second and one at the end; a bar as tqdm has it."""

    def __init__(self, total: int | None, desc: str, unit: str, initial: int = 0) -> None:
        self.n = initial
        self._total, self._desc, self._unit, self._initial = total, desc, unit, initial
        self._note = ""
        self._begin = time.monotonic()
        self._printed = -_SECONDS_BETWEEN_LINES

    def __enter__(self) -> "JsonBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, count: int) -> None:
        """Advance by `count`."""
        self.n += count
        if time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._print(is_last=False)

    def set_postfix_str(self, note: str, refresh: bool = True) -> None:
        """Set the note of the following lines."""
        self._note = note

    def close(self) -> None:
        """Print the last line."""
        self._print(is_last=True)

    def _print(self, is_last: bool) -> None:
        self._printed = time.monotonic()
        elapsed_s = self._printed - self._begin
        line = {
            "progress": self._desc,
            "done": self.n,
            "total": self._total,
            "unit": self._unit,
            "elapsed_s": round(elapsed_s, 3),
            "per_s": round((self.n - self._initial) / elapsed_s, 3) if elapsed_s else 0.0,
            "note": self._note,
            "is_last": is_last,
        }
        click.echo(to_line(line), err=True)


def _choose(style: str) -> None:
    global _style
    _style = style


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if value - value == 0 else None  # infinite and NaN are no JSON
    return value if value is None or isinstance(value, bool | int | str) else str(value)
