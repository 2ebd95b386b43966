"""One object on standard output, lines of JSON on standard error: a program can read both, whatever else is printed."""

import json
import math
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.cli_output import as_redirected, json_option, progress_option, result_on_stdout, to_line
from convnext_imagenet.base.console import expected_errors, own_lines, progress
from convnext_imagenet.base.errors import ExpectedError


@click.command()
@click.option("--fail", is_flag=True)
@json_option()
@progress_option
def command(fail: bool, as_json: bool) -> None:
    """Count to three."""
    with expected_errors(), result_on_stdout(as_json) as report:
        click.echo("begins")
        with progress(3, "count", unit="thing", units="of 1 group") as bar:
            bar(1)
            with own_lines():
                click.echo("a warning", err=True)
            if fail:
                raise ExpectedError("failed: try again")
            bar(2)
            bar.count_unit()
        report({"counted": 3})
        click.echo("ends")


def test_without_options_nothing_changes() -> None:
    done = CliRunner().invoke(command, [])
    assert done.stdout == "begins\nends\n"
    assert "count: 100%" in done.stderr
    assert "{" not in done.stderr


def test_the_object_is_alone_on_standard_output() -> None:
    done = CliRunner().invoke(command, ["--json"])
    assert done.stdout == '{"counted": 3}\n'
    assert {"begins", "a warning", "ends"} <= set(done.stderr.splitlines())


def test_an_error_has_no_object_and_keeps_line_and_code() -> None:
    done = CliRunner().invoke(command, ["--json", "--fail", "--progress", "json"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "Error: failed: try again"
    assert json.loads(done.stderr.splitlines()[-2])["is_last"] is True


def test_progress_is_a_line_at_once_and_one_at_the_end() -> None:
    done = CliRunner().invoke(command, ["--progress", "json"])
    first, last = (json.loads(line) for line in done.stderr.splitlines() if line.startswith("{"))
    assert (first["progress"], first["done"], first["total"], first["is_last"]) == ("count", 1, 3, False)
    assert (last["done"], last["unit"], last["note"], last["is_last"]) == (3, "thing", "1 of 1 group", True)
    again = CliRunner().invoke(command, [])
    assert "{" not in again.stderr, "the choice is that of one call"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"path": Path("a/b")}, '{"path": "a/b"}'),
        ({"loss": math.nan, "more": [math.inf, 1.5]}, '{"loss": null, "more": [null, 1.5]}'),
        ({"of": {1: (True, None, "ä")}}, '{"of": {"1": [true, null, "ä"]}}'),
    ],
)
def test_whatever_a_command_has_becomes_json(value: dict[str, object], line: str) -> None:
    assert to_line(value) == line


def test_a_launcher_passes_on_what_its_rank_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with result_on_stdout(True):
        click.echo("of the launcher")
        with as_redirected():
            click.echo("of the rank")
    with as_redirected():
        click.echo("without --json")
    output = capsys.readouterr()
    assert (output.out, output.err) == ("of the rank\nwithout --json\n", "of the launcher\n")
