"""Options under a new name: the old one works and is not shown."""

import click
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.console import RenamedOption


@click.command()
@click.option("--init-from", "--start", cls=RenamedOption, default="nothing", metavar="FILE", help="Weights.")
def command(init_from: str) -> None:
    click.echo(init_from)


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
