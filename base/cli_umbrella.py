"""`convnext`: all commands of the package under one name, and the shell's completion for them.

It finds them by the entry points of the installed package, so it knows none of the rooms.
"""

import functools
from importlib.metadata import EntryPoint, distribution

import click

_PACKAGE = "convnext_imagenet"
_PREFIX = "convnext-"
_OWN_NAME = "convnext"
_SHELLS = ("bash", "fish", "zsh")


class _Installed(click.Group):
    """A group whose commands are the package's programs `convnext-NAME`; only the one that is called is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted([*_programs(), *self.commands])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command, imported."""
        if (program := _programs().get(cmd_name)) is not None:
            return program.load()
        return super().get_command(ctx, cmd_name)


@functools.cache
def _programs() -> dict[str, EntryPoint]:
    scripts = distribution(_PACKAGE).entry_points.select(group="console_scripts")
    return {script.name.removeprefix(_PREFIX): script for script in scripts if script.name.startswith(_PREFIX)}


@click.group(cls=_Installed)
@click.version_option(package_name=_PACKAGE)
def main() -> None:
    """Raw images to verified records, a trained ConvNeXt, and predictions.

    `convnext train run` is `convnext-train run`, and so on.
    """


@main.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete our commands: `eval "$(convnext completion bash)"` in ~/.bashrc."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click has no completion for {shell}")
    for name in (_OWN_NAME, *(f"{_PREFIX}{program}" for program in _programs())):
        variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
        click.echo(_without_check(kind)(main, {}, name, variable).source())


def _without_check(kind: type) -> type:
    """Return the class without the check that starts the shell to ask its version."""
    return type(kind.__name__, (kind,), {"_check_version": staticmethod(lambda: None)})
