"""`convnext-train presets` and `config`: configurations on the screen, and their completion in a shell."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convnext_imagenet.base.cli_output import json_option, result_on_stdout
from convnext_imagenet.base.console import expected_errors

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def complete_config(context: click.Context, option: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Return the presets that begin so, or leave it to the shell to complete a path."""
    from click.shell_completion import CompletionItem

    from convnext_imagenet.train.config.source import preset_names

    names = [name for name in [*preset_names(), "auto"] if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def complete_set(context: click.Context, option: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Return `section.key=value` for the keys that begin so, with the key's words or its default."""
    from click.shell_completion import CompletionItem

    from convnext_imagenet.train.config.describe import key_rules, key_values

    rules = key_rules()
    items = [(f"{key}={value}", rules[key]) for key, values in key_values().items() for value in values]
    return [CompletionItem(text, help=rule) for text, rule in items if text.startswith(incomplete)]


config_argument = click.argument("config", shell_complete=complete_config)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    shell_complete=complete_set,
    help="Replace one key of CONFIG.",
)


@click.command()
@json_option()
def presets(as_json: bool) -> None:
    """Print the presets: network, size, epochs, and hours and top-1 where they are known."""
    import dataclasses

    from convnext_imagenet.train.config.describe import preset_lines, preset_table

    with expected_errors(), result_on_stdout(as_json) as report:
        entries = preset_table()
        report({"presets": [dataclasses.asdict(entry) for entry in entries]})
        if not as_json:
            click.echo("\n".join(preset_lines(entries)))
            click.echo(
                "`convnext-train config PRESET` prints its keys; its first lines say on which data and machine.",
                err=True,
            )


@click.command()
@config_argument
@set_option
def config(config: str, overrides: tuple[str, ...]) -> None:
    """Print CONFIG as it would be used: a preset, a .toml file or a RUN, with --set.

    Each key has a comment: where its value comes from, the default, and which values it takes. The output is a
    configuration file.
    """
    from convnext_imagenet.train.config.describe import described_toml

    with expected_errors():
        of_run = Path(config) / "config.toml"
        click.echo(described_toml(str(of_run) if of_run.is_file() else config, overrides), nl=False)
