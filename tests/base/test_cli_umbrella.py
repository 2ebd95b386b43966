"""`convnext` has all commands of the package, imports only the one that is called, and prints completion scripts."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.cli_umbrella import main

ROOMS = ("ingest", "records", "serve", "train")


def test_each_room_is_a_subcommand_with_its_commands() -> None:
    context = click.Context(main)
    assert {*ROOMS, "completion"} <= set(main.list_commands(context))
    for room in ROOMS:
        done = CliRunner().invoke(main, [room, "--help"])
        assert done.exit_code == 0
        assert f"Usage: convnext {room}" in done.output.replace("Usage: main", "Usage: convnext")


def test_only_the_called_room_is_imported() -> None:
    script = (
        "import sys; from convnext_imagenet.base.cli_umbrella import main\n"
        "main(['records', 'show', '--help'], standalone_mode=False)\n"
        "print([name for name in sys.modules if name.startswith('convnext_imagenet.') and name.endswith('.cli')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['convnext_imagenet.records.cli']"


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --no")])
def test_a_completion_script_is_for_every_command(shell: str, word: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    for name in ("convnext", *(f"convnext-{room}" for room in ROOMS)):
        assert f"_{name.replace('-', '_').upper()}_COMPLETE=" in done.output
    assert done.output.count(word) >= 5


def test_bash_takes_the_script() -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "replies"),
    [
        (["convnext", "rec"], ["records"]),
        (["convnext", "train", "ru"], ["run"]),
        (["convnext-records", "sh"], ["show"]),
        (["convnext-train", "run", "small-f"], ["small-finetune"]),
        (["convnext-train", "run", "demo", "--set", "train.see"], ["train.seed=0"]),
        (["convnext-train", "run", "demo", "--set", "train.seed", "="], ["0"]),
        (["convnext-train", "run", "demo", "--set", "optimizer.name", "=", "sg"], ["sgd"]),
        (["convnext-train", "run", "demo", "--set", "=", "train.see"], ["train.seed=0"]),
        (["convnext-train", "run", "demo", "--set", "=", "optimizer.name", "=", "sg"], ["sgd"]),
    ],
)
def test_bash_completes_words_as_it_splits_them(words: list[str], replies: list[str], tmp_path: Path) -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    function = f"_{words[0].replace('-', '_')}_completion"
    ask = f'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); {function} "$1"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    command = ["bash", "-c", script + ask, "bash", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=path, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (replies, "")
