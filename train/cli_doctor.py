"""`convnext-train doctor`: the checks of a machine, as lines or as JSON."""

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.console import LocalPath, expected_errors
from convnext_imagenet.launch.cli import announcing_exit, enter_ranks, launch_options

if TYPE_CHECKING:  # importing it takes seconds, and --help must answer at once
    from convnext_imagenet.train.doctor import Finding


@click.command()
@click.option("--records", type=click.Path(path_type=Path), help="Also check this RECORDS directory.")
@click.option("--out", type=LocalPath(), help="Also check that this RUN directory can be written.")
@click.option(
    "--quick",
    is_flag=True,
    help="Skip the training step and the all-reduce, which take seconds; show only warnings and errors.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each check as a line of JSON, to be sent to somebody.")
@launch_options
def doctor(records: Path | None, out: Path | None, quick: bool, as_json: bool, **launch: Any) -> None:
    """Check this machine and print what it lacks for a run.

    It checks versions, devices, memory, disk, records, one training step and one all-reduce. Each line begins with ok,
    warning or error. A warning or an error says what to do. The exit code is 1 if there is an error.
    """
    from convnext_imagenet.model.runtime import set_environment

    set_environment()  # before the next line imports MindSpore, which would print its own warnings among ours

    from convnext_imagenet.launch.devices import choose_target
    from convnext_imagenet.train.doctor import ERROR, OK, TESTED, examine
    from convnext_imagenet.train.machine import read_machine

    def show(findings: "Iterable[Finding]") -> list[str]:
        levels = []
        for finding in findings:
            levels.append(finding.level)
            if as_json:
                click.echo(json.dumps(dataclasses.asdict(finding)))
            elif finding.level != OK or not quick:
                advice = "" if finding.level == OK else f"; {finding.advice}"
                click.echo(f"{finding.level:8} {finding.what:22} {finding.result}{advice}")
        return levels

    def before() -> None:
        machine = read_machine(choose_target(launch["device_target"]), TESTED)
        levels = show(examine(machine, launch["devices"], records, out))
        if quick and not as_json:
            count = f"{levels.count(OK)} of {len(levels)} checks ok"
            click.echo(f"doctor: {count}; without --quick, `convnext-train doctor` shows them all")
        if ERROR in levels:
            sys.exit(1)

    with announcing_exit(), expected_errors():
        if quick:
            before()
            return
        ranks, _ = enter_ranks(launch, None, before)

        from convnext_imagenet.train.doctor import try_step, try_sum

        levels = show(examination(ranks) for examination in (try_sum, try_step))
        if ERROR in levels:
            sys.exit(1)
