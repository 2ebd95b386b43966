"""What fits on which nodes, and which software is the same: decided without a cluster."""

import pytest

from convnext_imagenet.base.host import sources_digest
from convnext_imagenet.launch.cluster.nodes import (
    Node,
    WorkerResources,
    network_resources,
    refuse_other_software,
    refuse_without_room,
    room_for,
    software_here,
)
from convnext_imagenet.launch.errors import LaunchError


def _node(host: str = "a", **resources: float) -> Node:
    return Node(f"id of {host}", host, resources)


@pytest.mark.parametrize(
    ("per_worker", "nodes", "room"),
    [
        (WorkerResources(), [_node(CPU=2), _node(CPU=3)], 5),
        (WorkerResources(cpus=2), [_node(CPU=2), _node(CPU=3), _node(CPU=1)], 2),
        (WorkerResources(cpus=1, gpus=1), [_node(CPU=8, GPU=2), _node(CPU=1, GPU=4), _node(CPU=9)], 3),
        (WorkerResources(cpus=4, others={"NPU": 1}), [_node(CPU=64, NPU=8)], 8),
        (WorkerResources(), [], 0),
    ],
)
def test_room_is_counted_node_by_node(per_worker: WorkerResources, nodes: list[Node], room: int):
    assert room_for(per_worker, nodes) == room


@pytest.mark.parametrize(
    ("target", "words", "resources"),
    [
        ("CPU", (), {"CPU": 4}),
        ("CPU", ("CPU=2",), {"CPU": 2}),
        ("GPU", (), {"CPU": 2, "GPU": 1}),
        ("GPU", ("GPU=0.5",), {"CPU": 1, "GPU": 0.5}),
        ("Ascend", (), {"CPU": 1, "NPU": 1}),
        ("Ascend", ("NPU=2", "CPU=3", "fast_disk=1"), {"CPU": 3, "NPU": 2, "fast_disk": 1}),
    ],
)
def test_a_network_takes_a_device_and_its_share_of_the_cores(target: str, words, resources: dict[str, float]):
    nodes = [_node(CPU=8, GPU=4), _node(CPU=4, NPU=4), _node(CPU=6, GPU=2)]
    assert network_resources(target, words, nodes).amounts == resources


def test_a_node_with_fewer_cores_than_devices_still_gives_each_network_one():
    assert network_resources("GPU", (), [_node(CPU=4, GPU=8)]).amounts == {"CPU": 1, "GPU": 1}


@pytest.mark.parametrize("words", [("CPU",), ("=2",), ("CPU=0",), ("CPU=-1",), ("GPU=nan",), ("CPU=1", "CPU=2")])
def test_words_that_are_no_amounts_are_refused(words):
    with pytest.raises(LaunchError, match=r"--per-actor '.*expected NAME=AMOUNT once per name"):
        network_resources("CPU", words, [_node(CPU=8)])


def test_a_need_that_no_node_meets_is_refused_with_what_the_nodes_have():
    with pytest.raises(
        LaunchError, match=r"needs CPU 1, NPU 2, but no node of the cluster .*\(1 node, a: CPU 8, NPU 1"
    ):
        refuse_without_room(WorkerResources(others={"NPU": 2}), [_node(CPU=8, NPU=1)])
    refuse_without_room(WorkerResources(others={"NPU": 1}), [_node(CPU=8, NPU=1)])


def test_other_software_is_refused_by_name_and_version():
    here = {"numpy": "1.26.4", "sources": "abc", "python": "3.11.9"}
    refuse_other_software("node7", here, dict(here))
    with pytest.raises(LaunchError, match=r"node node7: .*numpy 1.26.3 instead of 1.26.4, sources missing instead of"):
        refuse_other_software("node7", here, {"numpy": "1.26.3", "python": "3.11.9"})


def test_software_covers_all_that_decides_bytes_and_our_own_sources():
    software = software_here()
    assert set(software) >= {"python", "mindspore", "numpy", "opencv-python-headless", "pyarrow", "pillow", "ray"}
    assert sources_digest()[:12] in software.values()
