"""The options that make a command run its units of work on a Ray cluster, and the connection to that cluster."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convnext_imagenet.base.console import show_log_lines

if TYPE_CHECKING:
    from convnext_imagenet.launch.cluster.nodes import Node, WorkerResources
    from convnext_imagenet.launch.cluster.units import ClusterExecutor

LOCAL, RAY = "local", "ray"
engine_option = click.option(
    "--engine",
    type=click.Choice([LOCAL, RAY]),
    default=LOCAL,
    show_default=True,
    help="Run the work on this machine or on a Ray cluster (extra `ray`); the results have the same bytes.",
)
address_option = click.option(
    "--address",
    default="",
    metavar="HOST:PORT",
    help="With --engine ray: head node of the cluster, or auto for the cluster that runs on this machine.  "
    "[default: RAY_ADDRESS, else a new one on this machine]",
)


def is_given(name: str) -> bool:
    """Return whether the user gave this option of the running command; false if it has only its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, click.core.ParameterSource.DEFAULT)


def is_usual(name: str, value: Any) -> bool:
    """Return whether this option of the running command has its default value; `make` always gives every option."""
    context = click.get_current_context()
    return any(option.name == name and option.get_default(context) == value for option in context.command.params)


def refuse_unused(engine: str, **values: Any) -> None:
    """Raise UsageError for an option that works only with --engine ray."""
    for name, value in values.items():
        if value and engine != RAY:
            raise click.UsageError(
                f"--{name.replace('_', '-')}: works only with --engine ray; add --engine ray, or remove this option"
            )


@contextlib.contextmanager
def on_cluster(
    address: str,
    choose_resources: "Callable[[list[Node]], WorkerResources]",
    out: Path,
    inputs: Sequence[Path],
    max_workers: int | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> "Iterator[ClusterExecutor]":
    """Connect to the cluster, check its nodes, print how many workers fit, and yield the executor.

    `choose_resources` returns what one worker takes, given the nodes. Raises LaunchError for an unusable cluster.
    """
    from convnext_imagenet.launch.cluster.nodes import room_for
    from convnext_imagenet.launch.cluster.session import connected_to_ray, live_nodes, preflight
    from convnext_imagenet.launch.cluster.units import ClusterExecutor

    show_log_lines()
    out = out.resolve()
    with connected_to_ray(address, len(os.sched_getaffinity(0))) as ray:
        nodes = live_nodes(ray)
        per_worker = choose_resources(nodes)
        preflight(ray, nodes, per_worker, out, [path.resolve() for path in inputs])
        able, room = sum(room_for(per_worker, [node]) > 0 for node in nodes), room_for(per_worker, nodes)
        room = min(room, max_workers or room)
        click.echo(
            f"Ray: {able} node{'s' * (able > 1)} with the same software and folders, "
            f"room for {room} worker{'s' * (room > 1)} at once",
            err=True,
        )
        yield ClusterExecutor(ray, per_worker, out, max_workers, is_stopped)
