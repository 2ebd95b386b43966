"""Options under a new name: the old one works and is not shown. Lines beside a progress bar stand on their own."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.console import FiniteRange, RenamedOption, error_line, expected_errors, own_lines, progress
from convnext_imagenet.base.errors import ArtefactError, ExpectedError


@click.command()
@click.option("--init-from", "--start", cls=RenamedOption, default="nothing", metavar="FILE", help="Weights.")
def command(init_from: str) -> None:
    click.echo(init_from)


@click.command()
@click.option("--minutes", type=FiniteRange(min=0, min_open=True))
def timed(minutes: float) -> None:
    click.echo(minutes)


@pytest.mark.parametrize("text", ["nan", "-nan", "inf", "1e400", "0", "-1", "x"])
def test_a_number_within_bounds_is_finite(text: str) -> None:
    assert CliRunner().invoke(timed, ["--minutes", "0.5"]).output == "0.5\n"
    refused = CliRunner().invoke(timed, ["--minutes", text])
    assert refused.exit_code == 2
    assert "Invalid value for '--minutes'" in refused.output


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], "nothing"),
        (["--init-from", "a"], "a"),
        (["--start", "a"], "a"),
        (["--start=a", "--init-from=b"], "b"),
        (["--init-from=b", "--start=a"], "a"),
    ],
)
def test_both_names_mean_the_same_and_the_last_wins(words: list[str], value: str) -> None:
    assert CliRunner().invoke(command, words).output == f"{value}\n"


def test_help_shows_the_new_name_only() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert "--init-from FILE  Weights." in text
    assert "--start" not in text
    assert command.params[0].opts == ["--init-from", "--start"], "showing help does not take the old name away"


class _Several(ExpectedError):
    def lines(self) -> list[str]:
        return ["two things:", "  one\nof the user's names", "  two"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ExpectedError("a name\nof two lines: bad"), "Error: a name of two lines: bad\n"),
        (_Several("two things"), "Error: two things:\n  one of the user's names\n  two\n"),
    ],
)
def test_an_error_is_a_line_for_each_thing_to_correct(
    error: ExpectedError, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, expected_errors():
        raise error
    assert (ended.value.code, capsys.readouterr().err) == (1, said)


@pytest.mark.parametrize(
    ("take", "size", "why"), [(np.zeros, 2**57, " (Unable to allocate 1.00 EiB for an array "), (bytes, 2**62, "; ask")]
)
def test_too_little_memory_is_one_line(
    take: Callable[[int], object], size: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, expected_errors():
        take(size)
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (74, 1)
    assert said.startswith(f"Error: out of memory{why}")
    assert said.endswith("; ask for less, such as a smaller network or batch, or free memory\n")


@pytest.mark.parametrize("line", ["convnext-records --help", "convnext --help", "convnext-train presets"])
def test_a_full_disk_under_the_output_is_one_line(line: str) -> None:
    name, *words = line.split()
    program = Path(sys.executable).with_name(name)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([program, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (74, "Error: input or output: No space left on device\n")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_beside_a_bar_has_its_own_line_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with progress(2, "work"), own_lines():
        click.echo("a warning", err=True)
    assert "a warning" in file.getvalue().split("\n"), "the bar is neither before nor after it"


def _fail_after(counted: int) -> None:
    with expected_errors(), progress(2, "work") as advance:
        advance(counted)
        raise ExpectedError("bad")


@pytest.mark.parametrize(("counted", "is_left"), [(0, False), (1, True)])
def test_an_error_before_the_first_unit_leaves_no_bar(
    counted: int, is_left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, terminal = io.StringIO(), _Terminal()
    for stderr in (file, terminal):
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit):
            _fail_after(counted)
    shown = terminal.getvalue().split("\r")[-1]
    assert file.getvalue().endswith("Error: bad\n")
    assert ("work" in file.getvalue(), "work" in shown) == (is_left, is_left)
    assert is_left or shown == "Error: bad\n", "the bar was cleared"


@pytest.mark.parametrize(("total", "is_drawn"), [(2, True), (0, False)])
def test_a_bar_that_counted_nothing_is_drawn_if_there_was_something_to_count(
    total: int, is_drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    with progress(total, "work"):
        pass
    assert ("work" in file.getvalue()) == is_drawn


@pytest.mark.parametrize("counted", [0, 2])
def test_bars_that_a_launcher_has_turned_off_end_in_silence(counted: int) -> None:
    program = f"""
from convnext_imagenet.base.console import own_lines, progress
with progress(2, "work", units="of 2 shards") as advance, own_lines():
    advance({counted})
"""
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "TQDM_DISABLE": "1"}  # tqdm reads it once, at its import
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_lines_of_other_threads_are_never_behind_a_bar_and_blank_lines_are_not_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)

    def warn() -> None:
        for _ in range(200):
            with own_lines():
                click.echo("a warning", err=True)

    with progress(100_000, "work") as advance:
        threads = [threading.Thread(target=warn) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            advance._bar.mininterval = 0  # draw each time
            advance(1)
    lines = file.getvalue().split("\n")
    assert lines.count("a warning") == 400
    assert "" not in lines[:-1]


def test_a_terminal_is_cleared_before_a_line_even_if_stderr_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, replaced = _Terminal(), _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(2, "work"):
        monkeypatch.setattr(sys, "stderr", replaced)  # as MindSpore does
        with own_lines():
            before = terminal.getvalue()
            click.echo("a warning", err=True)
        after = terminal.getvalue()
    assert before.endswith("\r")
    assert not before.split("\r")[-2].strip(), "spaces over the bar"
    assert "work" in after.removeprefix(before), "the bar is drawn again"
    assert replaced.getvalue() == "a warning\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3:/key:hunter2@bucket/x: no such directory", "s3:/bucket/x: no such directory"),
        ("s3://key:hun/ter2@bucket/x and s3://b:hunter2@c", "s3://bucket/x and s3://c"),
        ("abfss://:hunter2@account/x", "abfss://account/x"),
        ("abfss://container@account/x", "abfss://container@account/x"),
        ("http://host:8080/x: away", "http://host:8080/x: away"),
    ],
)
def test_an_error_shows_no_password_of_a_uri(text, shown):
    assert error_line(ArtefactError(text)) == f"Error: {shown}"
    assert error_line(FileNotFoundError(2, "No such file", text)) == f"Error: {shown}: No such file"
