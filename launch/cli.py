"""The options that make any command run as several ranks, and the choice of a process to be rank or launcher."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.cli_output import as_redirected
from convnext_imagenet.base.console import RenamedOption
from convnext_imagenet.base.programs import own_command
from convnext_imagenet.launch.devices import AUTO, TARGETS, choose_target, devices_seen
from convnext_imagenet.launch.ranks.heartbeat import own_heartbeat, tie_to_launcher
from convnext_imagenet.launch.ranks.job_token import choose_token
from convnext_imagenet.launch.ranks.launcher import LaunchPlan, run_job
from convnext_imagenet.launch.ranks.rank import Layout, Rank, check_layout, own_rank, parse_rendezvous

if TYPE_CHECKING:  # importing it takes seconds, and --help must answer at once
    from convnext_imagenet.launch.ranks.collectives import Ranks

device_target_option = click.option(
    "--device-target",
    type=click.Choice([AUTO, *TARGETS]),
    default=AUTO,
    show_default=True,
    help="Device type to compute on; auto takes the first of Ascend, GPU and CPU that is available.",
)
_OPTIONS = (
    device_target_option,
    click.option(
        "--devices",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Number of devices to use on this machine.",
    ),
    click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Number of machines."),
    click.option(
        "--node-rank", type=click.IntRange(min=0), default=0, show_default=True, help="Index of this machine, from 0."
    ),
    click.option(
        "--rendezvous",
        "--master",
        cls=RenamedOption,
        default="",
        metavar="HOST[:PORT]",
        help="Address of machine 0; required with --nodes > 1.",
    ),
    click.option(
        "--restarts",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="How many times to restart the job when a rank fails.",
    ),
    click.option(
        "--heartbeat-timeout",
        "--silence",
        cls=RenamedOption,
        type=click.IntRange(min=1),
        default=600,
        show_default=True,
        metavar="SECONDS",
        help="Treat a rank as hung after this long without a heartbeat (six times as long before its first step).",
    ),
)


def launch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that `enter_ranks` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def enter_ranks(
    choices: dict[str, Any],
    logs: Path | None = None,
    before: Callable[[], None] = lambda: None,
    is_deterministic: bool = True,
    echo: Callable[[str], None] | None = None,
) -> "tuple[Ranks, str]":
    """Return the ranks of this command, with this process as one of them and ready to compute, and its device target.

    `choices` holds the values of `launch_options`. If there are several ranks, the process that the user started
    becomes their launcher: this call does not return, but exits with the exit code of the job. `before` runs the
    command's own checks before `logs` is created and ranks start. Without `logs`, logs are kept only if the job fails.
    `is_deterministic` is passed to `prepare`. All machines of a job must see the same `logs`. `echo` prints a line for
    the user, on standard error by default.

    Raises LaunchError for a layout that does not fit this machine, ModelError for a device that cannot be used.
    """
    rank = _rank_or_launch(choices, logs, before, echo or _echo)
    target = choose_target(choices["device_target"]).target

    from convnext_imagenet.model.runtime import prepare

    prepare(target, rank.device, is_deterministic)

    from convnext_imagenet.launch.ranks.collectives import join

    return join(rank), target


@contextlib.contextmanager
def announcing_exit() -> Iterator[None]:
    """Wrap a whole command: announce its exit code to its launcher. The exit code of a bug is not announced."""
    try:
        yield
    except SystemExit as end:
        own_heartbeat().announce_exit(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    own_heartbeat().announce_exit(0)


def with_heartbeat(on_progress: Callable[[int], None], doing: str) -> Callable[[int], None]:
    """Return `on_progress` with a heartbeat for the launcher before each call."""
    heartbeat = own_heartbeat()

    def beat(count: int) -> None:
        heartbeat.beat(doing, count)
        on_progress(count)

    return beat


def _rank_or_launch(
    choices: dict[str, Any], logs: Path | None, before: Callable[[], None], echo: Callable[[str], None]
) -> Rank:
    rank = own_rank()
    if rank.world > 1:
        tie_to_launcher()
        return rank
    choice = choose_target(choices["device_target"])
    layout = _parse_layout(choices, choice.target)
    cores = sorted(os.sched_getaffinity(0))
    check_layout(layout, len(cores), None if layout.target == "CPU" else devices_seen(layout.target))
    choose_token(layout, logs)  # refuses, before anything is checked or created
    before()
    if choices["device_target"] == AUTO:
        echo(f"device target {choice.target}: {choice.reason}")
    if layout.world > 1:
        sys.exit(_launch(layout, choices, cores, logs, echo))
    return rank


def _parse_layout(choices: dict[str, Any], target: str) -> Layout:
    host, port = parse_rendezvous(choices["rendezvous"], choices["nodes"])
    return Layout(
        devices=choices["devices"],
        target=target,
        host=host,
        port=port,
        nodes=choices["nodes"],
        node_rank=choices["node_rank"],
    )


def _launch(
    layout: Layout, choices: dict[str, Any], cores: list[int], logs: Path | None, echo: Callable[[str], None]
) -> int:
    folder = logs or Path(tempfile.mkdtemp(prefix="convnext-logs-"))
    where = f"{layout.devices} on this machine" if layout.nodes > 1 else f"cores {cores[0]} to {cores[-1]}"
    echo(f"{layout.world} ranks on {layout.target} ({where}); logs in {folder}")
    plan = LaunchPlan(layout, own_command(), folder, cores, choices["heartbeat_timeout"], choices["restarts"], logs)
    with as_redirected():  # the first rank prints the object of --json, and text to standard error
        code = run_job(plan, echo)
    if logs is None and code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _echo(line: str) -> None:
    click.echo(line, err=True)
