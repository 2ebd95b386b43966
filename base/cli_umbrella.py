"""`convnext`: all commands of the package under one name, and the shell's completion for them.

It finds them by the entry points of the installed package, so it knows none of the rooms.
"""

import functools
from importlib.metadata import EntryPoint, distribution

import click

from convnext_imagenet.base.console import Program

_PACKAGE = "convnext_imagenet"
_PREFIX = "convnext-"
_OWN_NAME = "convnext"
_SHELLS = ("bash", "fish", "zsh")
# bash splits words at "=", so `--set train.seed=1` arrives as four words. They are joined before the program is asked,
# and what was typed up to the last "=" is cut from its answers.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' word words=() head answer kind value
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if ((${#words[@]})) && [[ $word == "=" || ${words[-1]} == *= ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
    done
    word=${COMP_WORDS[COMP_CWORD]#=}
    head=${words[-1]}
    head=${head:0:${#head}-${#word}}
    [[ $head == --*=* ]] && head=${head#*=}
    COMPREPLY=()
    for answer in $(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete "$1"); do
        IFS=',' read -r kind value <<< "$answer"
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$head"}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Installed(Program):
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
        template = _BASH if shell == "bash" else kind.source_template
        click.echo(template % kind(main, {}, name, variable).source_vars())
