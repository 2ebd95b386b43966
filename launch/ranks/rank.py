"""Which processes make a job, and which of them this one is: ranks, environments and cores, as pure functions.

This module must not import MindSpore.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convnext_imagenet.launch.devices import collective_environment
from convnext_imagenet.launch.errors import LaunchError

# MindSpore's documented variables of a dynamic cluster; its own launcher, msrun, sets the same.
ROLE, WORKER, SCHEDULER = "MS_ROLE", "MS_WORKER", "MS_SCHED"
_PLACE = ("RANK_ID", "RANK_SIZE", "DEVICE_ID")


@dataclass(frozen=True)
class Rank:
    """One process of those that share a job's work: rank `number` of `world`, on its machine's device `device`."""

    number: int = 0
    world: int = 1
    device: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.number == 0

    def share(self, count: int) -> range:
        """The part of range(count) that falls to this rank; the ranks' parts are disjoint, in order and cover it."""
        return range(self.number * count // self.world, (self.number + 1) * count // self.world)


SINGLE_RANK = Rank()


def own_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return what the environment says of this process; alone when no launcher has started it."""
    if environment.get(ROLE) != WORKER:
        return SINGLE_RANK
    try:
        rank = Rank(*(int(environment[name]) for name in _PLACE))
    except (KeyError, ValueError):
        raise LaunchError(
            f"{ROLE} is {WORKER}, but {', '.join(_PLACE)} are not whole numbers; start ranks by --devices"
        ) from None
    if not 0 <= rank.number < rank.world:
        raise LaunchError(f"RANK_ID = {rank.number}: must be below RANK_SIZE = {rank.world}; start ranks by --devices")
    return rank


DEFAULT_PORT = 8118
START_FACTOR = 6  # reading all records and compiling may take that many times the silence allowed afterwards


@dataclass(frozen=True)
class Layout:
    """`devices` ranks on each of `nodes` machines, of which this is number `node_rank`; they meet at host:port."""

    devices: int
    target: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    nodes: int = 1
    node_rank: int = 0

    @property
    def ranks(self) -> int:
        """How many processes share the work, over all nodes."""
        return self.devices * self.nodes

    @property
    def local_ranks(self) -> range:
        """The ranks of this node."""
        return range(self.node_rank * self.devices, (self.node_rank + 1) * self.devices)


def check_layout(layout: Layout, cores: int, devices_here: int | None) -> None:
    """Raise LaunchError for a layout that this node cannot hold; `devices_here` is None where it cannot be told."""
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


def parse_master(text: str, nodes: int = 1) -> tuple[str, int]:
    """Return host and port of HOST or HOST:PORT; this machine when there is no other and nothing is said."""
    if not text and nodes == 1:
        return "127.0.0.1", DEFAULT_PORT
    host, colon, port = text.partition(":")
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65535)):
        raise LaunchError(
            f"--master {text!r}: {nodes} machines meet at HOST or HOST:PORT of the first, "
            f"such as 10.0.0.1:{DEFAULT_PORT}"
        )
    return host, int(port or DEFAULT_PORT)


def rank_environment(layout: Layout, rank: int, silence_s: int) -> dict[str, str]:
    """Return what MindSpore and `own_rank` want to know of a rank, in MindSpore's documented variables."""
    return {
        **_cluster(layout, silence_s),
        ROLE: WORKER,
        "MS_NODE_ID": str(rank),
        "RANK_ID": str(rank),
        "RANK_SIZE": str(layout.ranks),
        "DEVICE_ID": str(rank - layout.local_ranks.start),
    }


def scheduler_environment(layout: Layout, silence_s: int) -> dict[str, str]:
    """Return the environment of the process at which the ranks meet."""
    return {**_cluster(layout, silence_s), ROLE: SCHEDULER}


def _cluster(layout: Layout, silence_s: int) -> dict[str, str]:
    return {
        "MS_WORKER_NUM": str(layout.ranks),
        "MS_SCHED_HOST": layout.host,
        "MS_SCHED_PORT": str(layout.port),
        **collective_environment(START_FACTOR * silence_s),
    }


def divide_cores(cores: Sequence[int], devices: int) -> list[tuple[int, ...]]:
    """Return the cores of each local rank: neighbours, as even as possible; all of them where there are too few."""
    if devices > len(cores):
        return [tuple(cores)] * devices
    return [tuple(cores[i * len(cores) // devices : (i + 1) * len(cores) // devices]) for i in range(devices)]
