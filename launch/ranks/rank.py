"""The ranks of a job: which one this process is, their environments and their cores, as pure functions.

This module must not import MindSpore: the launcher needs this module, and only ranks compute.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convnext_imagenet.launch.devices import collective_environment
from convnext_imagenet.launch.errors import LaunchError

# MindSpore's documented variables of a dynamic cluster; its own launcher, msrun, sets the same.
ROLE, WORKER, SCHEDULER = "MS_ROLE", "MS_WORKER", "MS_SCHED"
_RANK_VARIABLES = ("RANK_ID", "RANK_SIZE", "DEVICE_ID")  # the fields of Rank, in their order

DEFAULT_PORT = 8118  # that of MindSpore's msrun; the next port is for the launchers
START_FACTOR = 6  # times the heartbeat time-out: before its first step a rank checks all records and compiles


@dataclass(frozen=True)
class Rank:
    """One of the processes that share a job's work: rank `number` of `world`, on device `device` of its machine."""

    number: int = 0
    world: int = 1
    device: int = 0

    @property
    def is_first(self) -> bool:
        """Return whether this is the rank that prints and writes for the whole job."""
        return self.number == 0

    def share(self, count: int) -> range:
        """Return this rank's part of range(count); the parts of all ranks are disjoint, in order, and cover it."""
        return range(self.number * count // self.world, (self.number + 1) * count // self.world)


SINGLE_RANK = Rank()


@dataclass(frozen=True)
class Layout:
    """`devices` ranks on each of `nodes` machines; this machine is number `node_rank`. All connect to host:port."""

    devices: int
    target: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    nodes: int = 1
    node_rank: int = 0

    @property
    def world(self) -> int:
        """Return the number of ranks on all machines."""
        return self.devices * self.nodes

    @property
    def local_ranks(self) -> range:
        """Return the numbers of the ranks on this machine."""
        return range(self.node_rank * self.devices, (self.node_rank + 1) * self.devices)


def own_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return the rank that the environment names, or SINGLE_RANK if no launcher started this process.

    Raises LaunchError for an incomplete rank, and for a rank outside its world.
    """
    if environment.get(ROLE) != WORKER:
        return SINGLE_RANK
    try:
        rank = Rank(*(int(environment[name]) for name in _RANK_VARIABLES))
    except (KeyError, ValueError):
        raise LaunchError(
            f"{ROLE} is {WORKER}, but {', '.join(_RANK_VARIABLES)} are not whole numbers; start ranks with --devices"
        ) from None
    if not 0 <= rank.number < rank.world:
        raise LaunchError(
            f"RANK_ID = {rank.number}: must be below RANK_SIZE = {rank.world}; start ranks with --devices"
        )
    return rank


def check_layout(layout: Layout, cores: int, devices_here: int | None) -> None:
    """Raise LaunchError for a layout that does not fit this machine; `devices_here` is None if it is unknown."""
    if layout.node_rank >= layout.nodes:
        raise LaunchError(
            f"--node-rank {layout.node_rank}: must be below --nodes {layout.nodes}, because nodes are numbered from 0"
        )
    if layout.target == "CPU" and layout.devices > cores:
        raise LaunchError(
            f"--devices {layout.devices}: must not exceed the {cores} core{'s' * (cores != 1)} of this process; "
            f"on the CPU each rank needs one"
        )
    if devices_here is not None and layout.devices > devices_here:
        raise LaunchError(
            f"--devices {layout.devices} --device-target {layout.target}: the drivers show {devices_here} such devices "
            f"here; pass fewer --devices, or --device-target CPU (for details run `convnext-train doctor`)"
        )


def parse_rendezvous(text: str, nodes: int = 1) -> tuple[str, int]:
    """Return host and port of HOST or HOST:PORT; an empty text with one node means this machine.

    Raises LaunchError for any other text.
    """
    if not text and nodes == 1:
        return "127.0.0.1", DEFAULT_PORT
    host, colon, port = text.partition(":")
    # The launchers connect through the next port, which must exist, too.
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65535)):
        raise LaunchError(
            f"--rendezvous {text!r}: expected HOST or HOST:PORT of machine 0, to which all {nodes} machines connect, "
            f"such as 10.0.0.1:{DEFAULT_PORT}"
        )
    return host, int(port or DEFAULT_PORT)


def default_environment(timeout_s: int) -> dict[str, str]:
    """Return the variables of all processes that a user may have set otherwise, and then the user's value stands.

    `timeout_s` is the heartbeat time-out: ranks wait for each other as long as the launcher does.
    """
    return collective_environment(START_FACTOR * timeout_s)


def rank_environment(layout: Layout, rank: int) -> dict[str, str]:
    """Return the environment variables from which MindSpore and `own_rank` read the rank of a process."""
    return {
        **_cluster_environment(layout),
        ROLE: WORKER,
        "MS_NODE_ID": str(rank),
        "RANK_ID": str(rank),
        "RANK_SIZE": str(layout.world),
        "DEVICE_ID": str(rank - layout.local_ranks.start),
    }


def scheduler_environment(layout: Layout) -> dict[str, str]:
    """Return the environment of the scheduler, the process through which ranks find each other."""
    return {**_cluster_environment(layout), ROLE: SCHEDULER}


def divide_cores(cores: Sequence[int], devices: int) -> list[tuple[int, ...]]:
    """Return the cores of each local rank: neighbours, in equal shares if possible; all cores if there are too few."""
    if devices > len(cores):
        return [tuple(cores)] * devices
    return [tuple(cores[i * len(cores) // devices : (i + 1) * len(cores) // devices]) for i in range(devices)]


def _cluster_environment(layout: Layout) -> dict[str, str]:
    return {
        "MS_WORKER_NUM": str(layout.world),
        "MS_SCHED_HOST": layout.host,
        "MS_SCHED_PORT": str(layout.port),
    }
