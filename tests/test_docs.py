"""What the README promises exists, and what exists is in the README."""

import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = ("records", "ingest", "train", "serve")


def _commands() -> list[tuple[str, click.Command]]:
    groups = {f"convnext-{room}": import_module(f"convnext_imagenet.{room}.cli").main for room in ROOMS}
    return [pair for name, group in groups.items() for pair in _commands_of(name, group)]


def _commands_of(name: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands_of(f"{name} {word}", command)
        else:
            yield f"{name} {word}", command


@pytest.mark.parametrize(("name", "command"), _commands(), ids=[name for name, _ in _commands()])
def test_every_command_and_option_has_help_and_the_command_stands_in_the_readme(name, command):
    assert command.help
    assert name in README
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, f"{name} {parameter.name} has no help"


def test_every_make_target_has_help_and_stands_in_the_readme():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    documented = set(re.findall(r"^([a-z][a-z-]*):.*## ", makefile, re.MULTILINE))
    assert targets == documented
    for target in targets:
        assert f"make {target}" in README, f"make {target} is not in the README"


def test_make_targets_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z][a-z-]*)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the README names make {target}"


@pytest.mark.parametrize("path", sorted((ROOT / "train" / "presets").glob("*.toml")), ids=lambda path: path.stem)
def test_every_preset_has_a_header_and_stands_in_the_readme(path):
    header = path.read_text().split("\n\n")[0]
    assert header.startswith("#")
    for word in ("command", "hours", "accuracy"):
        assert word in header.lower(), f"the header of {path.name} does not state its {word}"
    assert f"`{path.stem}`" in README


def test_no_tracked_file_names_a_home_folder_of_somebodys_machine():
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    home = re.compile(r"/(?:(?:home|Users)/[a-z]|root/)")
    texts = [ROOT / name for name in listing.stdout.split() if Path(name).suffix in {".py", ".md", ".toml", ".sh", ""}]
    offenders = [str(path) for path in texts if path.is_file() and home.search(path.read_text(errors="replace"))]
    assert not offenders
