"""Which processes make a job: their ranks, environments and cores, as pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass

from convnext_imagenet.launch.devices import collective_environment
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.place import ROLE, SCHEDULER, WORKER

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
    """Return what MindSpore and `own_place` want to know of a rank, in MindSpore's documented variables."""
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
