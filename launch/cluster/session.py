"""Connects to a Ray cluster for one job: an existing cluster, or one that is started on this machine.

Only this file and units.py import Ray, inside functions: it is an optional extra.
"""

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from convnext_imagenet.base.signals import postponed
from convnext_imagenet.base.wording import install_command
from convnext_imagenet.launch.cluster.nodes import Node, WorkerResources, refuse_without_room, room_for
from convnext_imagenet.launch.cluster.preflight import NodeReport, Probe, check_nodes, inspect_node
from convnext_imagenet.launch.errors import LaunchError

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0  # a host that drops packets would block until the system's own time-out
_NODE_SECONDS = 120.0  # a node may first have to start a Python process and import our packages
_POLL_SECONDS = 0.2  # how late a stop signal may be noticed
_STORE_BYTES = 80 << 20  # close to Ray's minimum: plans and receipts pass through Ray's store, images never do
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ENVIRONMENT = "RAY_ADDRESS"


def import_ray() -> Any:
    """Return the module `ray`. Raises LaunchError, which names the extra, if it cannot be imported."""
    try:
        import ray
    except ImportError as error:
        raise LaunchError(
            f"--engine ray: Ray cannot be imported ({error}); run `{install_command('convnext_imagenet[ray]')}`"
        ) from None
    return ray


@contextlib.contextmanager
def connected_to_ray(address: str, cores: int) -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster at `address` HOST:PORT, and disconnect at the end.

    "auto" is the cluster that runs on this machine. Without an address, use RAY_ADDRESS; without that, start a cluster
    with `cores` cores here and stop it at the end (DECISIONS, 2026-11-26). Raises LaunchError when the cluster does not
    answer.
    """
    ray = import_ray()
    address = address or os.environ.get(_ENVIRONMENT, "")
    if address and address != "auto":
        _refuse_unreachable(address)
    try:
        with postponed():
            _connect(ray, address, cores)
        yield ray
    finally:
        with postponed():
            ray.shutdown()


def _connect(ray: Any, address: str, cores: int) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
            return
        ray.init(address="local", num_cpus=cores, object_store_memory=_STORE_BYTES, include_dashboard=False, **quiet)
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        where = "Ray on this machine" if address in ("", "auto") else f"the cluster at {address}"
        raise LaunchError(
            f"{where}: cannot be used ({_first_line(error)}); run this on a node of a cluster that was started with "
            f"`ray start` in the same environment"
        ) from None


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _refuse_unreachable(address: str) -> None:
    """Raise LaunchError at once if nothing answers at the address; Ray would try for a minute and print pages."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LaunchError(
            f"--address {address!r}: expected HOST:PORT of the cluster's head node, such as 10.0.0.1:6379; "
            f"this machine must be one of its nodes"
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise LaunchError(
            f"--address {address}: does not answer ({error.strerror or error}); "
            f"start a cluster there with `ray start --head --port {port}`, or look for one with `ray status`"
        ) from None


def live_nodes(ray: Any) -> list[Node]:
    """Return the live nodes of the cluster."""
    return [
        Node(node["NodeID"], node["NodeManagerAddress"], dict(node["Resources"]))
        for node in ray.nodes()
        if node["Alive"]
    ]


def preflight(ray: Any, nodes: list[Node], per_worker: WorkerResources, out: Path, inputs: list[Path]) -> None:
    """Raise LaunchError unless a node has room for a worker and every such node passes `check_nodes`."""
    refuse_without_room(per_worker, nodes)
    able = [node for node in nodes if room_for(per_worker, [node])]
    with postponed() as is_stopped:
        check_nodes(out, inputs, lambda probe: _ask(ray, able, probe, is_stopped))


def _ask(
    ray: Any, nodes: list[Node], probe: Probe, is_stopped: Callable[[], bool]
) -> Iterator[tuple[Node, NodeReport]]:
    remote = ray.remote(num_cpus=0, max_retries=1)(inspect_node)
    asked = [
        (node, remote.options(scheduling_strategy=pinned_to(node.identity)).remote(probe, node.identity))
        for node in nodes
    ]
    end = time.monotonic() + _NODE_SECONDS
    for node, answer in asked:
        while not ray.wait([answer], timeout=_POLL_SECONDS)[0] and time.monotonic() < end:
            if is_stopped():
                return
        try:
            yield node, ray.get(answer, timeout=0)
        except ray.exceptions.RayTaskError as error:
            raise LaunchError(
                f"node {node.host}: cannot run convnext_imagenet ({_last_line(error)}); "
                f"install the same environment on all nodes"
            ) from None
        except ray.exceptions.RayError as error:
            if all(other.identity != node.identity for other in live_nodes(ray)):
                log.warning("node %s: died during the check; the job continues without it", node.host)
                continue
            raise LaunchError(
                f"node {node.host}: does not answer ({type(error).__name__}); check `ray status`, or stop that node"
            ) from None


def _last_line(error: Exception) -> str:
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]


def pinned_to(node: str) -> Any:
    """Return Ray's scheduling strategy that allows only this node."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)
