"""Which cores of this machine each rank gets: those near its card if that is known, else neighbours in number."""

from collections.abc import Collection, Mapping, Sequence

from convnext_imagenet.launch.npu_smi import cores_of_nodes, nodes_of_devices
from convnext_imagenet.launch.ranks.rank import divide_cores


def share_cores(target: str, cores: Sequence[int], devices: int) -> tuple[list[tuple[int, ...]], str]:
    """Return the cores of each local rank, and how they were chosen: "" if there is nothing to choose by."""
    equal = divide_cores(cores, devices)
    if target != "Ascend":
        return equal, ""
    nodes = nodes_of_devices(devices)
    if nodes is None:
        return equal, "cores: equal shares in order, because npu-smi does not tell the NUMA nodes of the devices"
    near = divide_cores_near(cores, nodes, cores_of_nodes(nodes))
    if near is None:
        return equal, "cores: equal shares in order, because this process has too few cores at the devices' NUMA nodes"
    return near, f"cores: those of each device's NUMA node first (nodes {', '.join(map(str, nodes))})"


def divide_cores_near(
    cores: Sequence[int], nodes: Sequence[int], cores_of_node: Mapping[int, Collection[int]]
) -> list[tuple[int, ...]] | None:
    """Return the cores of each device: an equal share of those of its NUMA node and of those that are near no device.

    `nodes` holds the node of each device. The shares are disjoint and cover `cores`. Return None if a node has fewer of
    `cores` than devices.
    """
    parts: list[list[int]] = [[] for _ in nodes]
    for node in {*nodes}:
        at_node = [device for device, own in enumerate(nodes) if own == node]
        near = sorted({*cores} & {*cores_of_node[node]})
        if len(near) < len(at_node):
            return None
        for device, share in zip(at_node, divide_cores(near, len(at_node)), strict=True):
            parts[device].extend(share)
    rest = sorted({*cores}.difference(*parts))
    # Devices in the order of their nodes: a node without a device usually shares a socket with the node before it.
    for place, device in enumerate(sorted(range(len(nodes)), key=lambda device: (nodes[device], device))):
        parts[device].extend(rest[place * len(rest) // len(nodes) : (place + 1) * len(rest) // len(nodes)])
    return [tuple(sorted(part)) for part in parts]
