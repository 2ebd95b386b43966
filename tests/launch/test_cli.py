"""How a command tells its launcher that it lives and how it leaves; `tests/train/test_ranks.py` starts real jobs."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.console import expected_errors
from convnext_imagenet.base.errors import ExpectedError, FailedError, Interrupted
from convnext_imagenet.launch.cli import announcing_exit, enter_ranks, launch_options, with_heartbeat
from convnext_imagenet.launch.ranks.heartbeat import HEARTBEAT_FILE, read_announced_exit, read_heartbeat
from convnext_imagenet.launch.ranks.job_token import JOB_TOKEN


@click.command()
@launch_options
def command(**choices: Any) -> None:
    click.echo(f"{choices['rendezvous']} {choices['heartbeat_timeout']}")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], " 600"),
        (["--rendezvous", "a:1", "--heartbeat-timeout", "9"], "a:1 9"),
        (["--master", "a:1", "--silence", "9"], "a:1 9"),
        (["--master=a", "--rendezvous=b", "--heartbeat-timeout=9", "--silence=8"], "b 8"),
    ],
)
def test_options_have_their_former_names_too_and_the_last_wins(words: list[str], values: str) -> None:
    assert CliRunner().invoke(command, words).output == f"{values}\n"


def test_help_shows_no_former_name() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert "--rendezvous HOST[:PORT]" in text
    assert "--heartbeat-timeout SECONDS" in text
    assert "--master" not in text
    assert "--silence" not in text


def _fail(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (lambda: None, 0),
        (sys.exit, 0),
        (lambda: sys.exit(3), 3),
        (lambda: sys.exit("some text"), 1),
        (_fail(ExpectedError("bad input")), 1),
        (_fail(FailedError("a full disk")), 74),
        (_fail(Interrupted("stopped")), 75),
        (_fail(ValueError("a bug")), None),
        (_fail(KeyboardInterrupt()), None),
    ],
    ids=["ends", "exit", "exit-3", "exit-text", "refused", "failed", "interrupted", "bug", "keyboard"],
)
def test_a_command_tells_its_launcher_its_exit_code_unless_it_is_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None], code: int | None
) -> None:
    monkeypatch.setenv(HEARTBEAT_FILE, str(tmp_path / "heartbeat"))

    def command() -> None:
        with announcing_exit(), expected_errors():
            assert read_announced_exit(tmp_path / "heartbeat") is None
            work()

    with contextlib.suppress(SystemExit, ValueError, KeyboardInterrupt):
        command()
    assert read_announced_exit(tmp_path / "heartbeat") == code


def test_progress_is_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HEARTBEAT_FILE, str(tmp_path / "heartbeat"))
    moved: list[int] = []
    beat = with_heartbeat(moved.append, "predicting")
    for count in (32, 8):
        beat(count)
    assert moved == [32, 8]
    assert (read_heartbeat(tmp_path / "heartbeat", 0).steps, read_heartbeat(tmp_path / "heartbeat", 0).doing) == (
        40,
        "predicting",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "--nodes 2: this command has no folder in which the machines could share a token; set "),
        ("short", "CONVNEXT_JOB_TOKEN has 5 characters: must have 32 to 4096"),
    ],
)
def test_several_machines_without_a_token_are_refused_before_anything_begins(
    monkeypatch: pytest.MonkeyPatch, text: str | None, words: str
) -> None:
    @click.command()
    @launch_options
    def without_a_folder(**choices: Any) -> None:
        with expected_errors():
            enter_ranks(choices, None, lambda: pytest.fail("its own checks come later"))

    monkeypatch.delenv(JOB_TOKEN, raising=False)
    if text:
        monkeypatch.setenv(JOB_TOKEN, text)
    ended = CliRunner().invoke(
        without_a_folder, ["--nodes", "2", "--rendezvous", "127.0.0.1", "--device-target", "CPU"]
    )
    assert ended.exit_code == 1
    assert ended.output.startswith(f"Error: {words}")
    assert ended.output.count("\n") == 1
