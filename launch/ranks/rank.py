"""Which processes make a job, and which of them this one is: ranks, their environments and cores, as pure functions.

This module must not import MindSpore: the process that the user starts needs all of it, and only ranks compute.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convnext_imagenet.launch.devices import collective_environment
from convnext_imagenet.launch.errors import LaunchError

# MindSpore's documented variables of a dynamic cluster; its own launcher, msrun, sets the same.
ROLE, WORKER, SCHEDULER = "MS_ROLE", "MS_WORKER", "MS_SCHED"
_RANK_VARIABLES = ("RANK_ID", "RANK_SIZE", "DEVICE_ID")  # the fields of Rank, in their order

DEFAULT_PORT = 8118
START_FACTOR = 6  # before its first step a rank reads all records and compiles: so many times the heartbeat time-out


@dataclass(frozen=True)
class Rank:
    """One process of those that share a job's work: rank `number` of `world`, on its machine's device `device`."""

    number: int = 0
    world: int = 1
    device: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that prints and writes what a job has once."""
        return self.number == 0

    def share(self, count: int) -> range:
        """Return this rank's part of range(count); the ranks' parts are disjoint, in order and cover it."""
        return range(self.number * count // self.world, (self.number + 1) * count // self.world)


SINGLE_RANK = Rank()


@dataclass(frozen=True)
class Layout:
    """`devices` ranks on each of `nodes` machines, of which this is number `node_rank`; they connect to host:port."""

    devices: int
    target: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    nodes: int = 1
    node_rank: int = 0

    @property
    def world(self) -> int:
        """The number of ranks on all machines."""
        return self.devices * self.nodes

    @property
    def local_ranks(self) -> range:
        """The numbers of the ranks on this machine."""
        return range(self.node_rank * self.devices, (self.node_rank + 1) * self.devices)


def own_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return the rank that the environment names; SINGLE_RANK when no launcher has started this process.

    Raises LaunchError for an environment that names a rank only in part or outside its world.
    """
    if environment.get(ROLE) != WORKER:
        return SINGLE_RANK
    try:
        rank = Rank(*(int(environment[name]) for name in _RANK_VARIABLES))
    except (KeyError, ValueError):
        raise LaunchError(
            f"{ROLE} is {WORKER}, but {', '.join(_RANK_VARIABLES)} are not whole numbers; start ranks by --devices"
        ) from None
    if not 0 <= rank.number < rank.world:
        raise LaunchError(f"RANK_ID = {rank.number}: must be below RANK_SIZE = {rank.world}; start ranks by --devices")
    return rank


def check_layout(layout: Layout, cores: int, devices_here: int | None) -> None:
    """Raise LaunchError for a layout that does not fit this machine; `devices_here` is None where it is unknown."""
    if layout.node_rank >= layout.nodes:
        raise LaunchError(
            f"--node-rank {layout.node_rank}: must be below --nodes {layout.nodes}; number the nodes from 0"
        )
    if layout.target == "CPU" and layout.devices > cores:
        raise LaunchError(
            f"--devices {layout.devices}: must not exceed the {cores} cores of this process, on the CPU one rank each"
        )
    if devices_here is not None and layout.devices > devices_here:
        raise LaunchError(
            f"--devices {layout.devices} --device-target {layout.target}: the drivers show {devices_here} such devices "
            f"here; ask for fewer, or use device target CPU (`convnext-train doctor` tells more)"
        )


def parse_rendezvous(text: str, nodes: int = 1) -> tuple[str, int]:
    """Return host and port of HOST or HOST:PORT; this machine when there is no other and none is named.

    Raises LaunchError for a text of another form.
    """
    if not text and nodes == 1:
        return "127.0.0.1", DEFAULT_PORT
    host, colon, port = text.partition(":")
    # The launchers' own link uses the port after this one, which must exist, too.
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65535)):
        raise LaunchError(
            f"--rendezvous {text!r}: expected HOST or HOST:PORT of machine 0, to which all {nodes} machines connect, "
            f"such as 10.0.0.1:{DEFAULT_PORT}"
        )
    return host, int(port or DEFAULT_PORT)


def rank_environment(layout: Layout, rank: int, timeout_s: int) -> dict[str, str]:
    """Return the variables that tell MindSpore and `own_rank` which rank a process is.

    `timeout_s` is the heartbeat time-out: collectives wait as long as the launcher does.
    """
    return {
        **_cluster_environment(layout, timeout_s),
        ROLE: WORKER,
        "MS_NODE_ID": str(rank),
        "RANK_ID": str(rank),
        "RANK_SIZE": str(layout.world),
        "DEVICE_ID": str(rank - layout.local_ranks.start),
    }


def scheduler_environment(layout: Layout, timeout_s: int) -> dict[str, str]:
    """Return the environment of the process through which the ranks find each other."""
    return {**_cluster_environment(layout, timeout_s), ROLE: SCHEDULER}


def divide_cores(cores: Sequence[int], devices: int) -> list[tuple[int, ...]]:
    """Return the cores of each local rank: neighbours, as even as possible; all of them where there are too few."""
    if devices > len(cores):
        return [tuple(cores)] * devices
    return [tuple(cores[i * len(cores) // devices : (i + 1) * len(cores) // devices]) for i in range(devices)]


def _cluster_environment(layout: Layout, timeout_s: int) -> dict[str, str]:
    return {
        "MS_WORKER_NUM": str(layout.world),
        "MS_SCHED_HOST": layout.host,
        "MS_SCHED_PORT": str(layout.port),
        **collective_environment(START_FACTOR * timeout_s),
    }
