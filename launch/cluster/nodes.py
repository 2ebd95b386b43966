"""What a job requires of the nodes of a cluster, as pure functions: room for workers and equal software.

This module must not import Ray.
"""

import importlib.metadata
import importlib.util
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convnext_imagenet.base.host import sources_digest
from convnext_imagenet.launch.errors import LaunchError

_PACKAGES = (
    "convnext_imagenet", "ray", "mindspore", "numpy", "opencv-python-headless", "pyarrow", "pillow", "scipy",
)  # fmt: skip
_SOURCES = "sources of convnext_imagenet"
_DEVICES = {"GPU": "GPU", "Ascend": "NPU"}  # our names -> Ray's, which detects them on a node by itself


@dataclass(frozen=True)
class Node:
    """A live node of the cluster and all of its resources, used or free: {"CPU": 8.0, "NPU": 8.0, ...}."""

    identity: str
    host: str
    resources: Mapping[str, float]


@dataclass(frozen=True)
class WorkerResources:
    """What one worker takes of its node: cores, GPUs, and amounts of other resources such as NPU.

    `keeps_cores` binds it to that number of cores, because some libraries start one thread for each core they see.
    """

    cpus: float = 1
    gpus: float = 0
    others: Mapping[str, float] = field(default_factory=dict)
    keeps_cores: bool = False

    @property
    def amounts(self) -> dict[str, float]:
        """Return all amounts by Ray's names, without zeros."""
        return {name: amount for name, amount in {"CPU": self.cpus, "GPU": self.gpus, **self.others}.items() if amount}


def room_for(per_worker: WorkerResources, nodes: Iterable[Node]) -> int:
    """Return how many workers fit on the nodes at once if nothing else uses them."""
    return sum(_room_on(node, per_worker.amounts) for node in nodes)


def _room_on(node: Node, resources: Mapping[str, float]) -> int:
    return min((math.floor(node.resources.get(name, 0) / amount) for name, amount in resources.items()), default=1)


def network_resources(target: str, amounts: Sequence[str], nodes: Sequence[Node]) -> WorkerResources:
    """Return what a worker with one network takes on a device target; `amounts` are words such as CPU=4, GPU=1, NPU=1.

    By default it takes one device and an even share of cores, that of the node with the fewest cores per device. The
    CPU is one device: there a worker takes all cores of the smallest node. Raises LaunchError for a word that is not
    an amount, and for a repeated name.
    """
    found = _amounts(amounts)
    device = _DEVICES.get(target)
    if device and device not in found:
        found[device] = 1
    shares = [
        node.resources.get("CPU", 0) * found[device] // node.resources[device] if device else node.resources["CPU"]
        for node in nodes
        if node.resources.get(device or "CPU", 0) >= 1
    ]
    cpus = found.pop("CPU", max(1, min(shares, default=1)))
    return WorkerResources(cpus, found.pop("GPU", 0), found, keeps_cores=True)


def _amounts(words: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in words:
        name, _, amount = text.partition("=")
        try:
            value = float(amount)
        except ValueError:
            value = math.nan
        if not name or name in found or not 0 < value < math.inf:
            raise LaunchError(f"--per-actor {text!r}: expected NAME=AMOUNT once per name, such as CPU=8 or NPU=1")
        found[name] = value
    return found


def refuse_without_room(per_worker: WorkerResources, nodes: Sequence[Node]) -> None:
    """Raise LaunchError when no node has room for one worker."""
    if not room_for(per_worker, nodes):
        wanted = ", ".join(f"{name} {amount:g}" for name, amount in per_worker.amounts.items())
        available = "; ".join(_describe(node, per_worker) for node in nodes[:3])
        raise LaunchError(
            f"a worker needs {wanted}, but no node of the cluster has that "
            f"({len(nodes)} node{'s' * (len(nodes) != 1)}, {available}); request less, or start nodes that have it"
        )


def _describe(node: Node, per_worker: WorkerResources) -> str:
    return f"{node.host}: " + ", ".join(f"{name} {node.resources.get(name, 0):g}" for name in per_worker.amounts)


def software_here() -> dict[str, str]:
    """Return the versions of everything that decides bytes, and a digest of our sources.

    The digest is needed because two checkouts may have the same version.
    """
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions | {_SOURCES: sources_digest()[:12]}


def refuse_other_software(host: str, here: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Raise LaunchError when versions on the node `host` differ from those of this process."""
    differing = [
        f"{name} {there.get(name, 'missing')} instead of {here.get(name, 'missing')}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    if differing:
        raise LaunchError(
            f"node {host}: its software differs ({', '.join(differing)}), so its results might differ; "
            f"install the same environment on all nodes"
        )
