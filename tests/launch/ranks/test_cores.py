"""Each rank gets cores near its card, every core of the process once; else equal shares in order, and that is said."""

import pytest

from convnext_imagenet.launch.ranks import cores as module
from convnext_imagenet.launch.ranks.cores import divide_cores_near, share_cores

FOUR_NODES = {node: range(24 * node, 24 * (node + 1)) for node in range(4)}


@pytest.mark.parametrize(
    ("cores", "nodes", "expected"),
    [
        (range(8), [1, 0], [(4, 5, 6, 7), (0, 1, 2, 3)]),
        (range(8), [1, 1], [(0, 1, 4, 5), (2, 3, 6, 7)]),  # those of node 0 are near no device
        ((0, 1, 4), [0, 0, 1], [(0,), (1,), (4,)]),
        (range(1, 8), [0], [tuple(range(1, 8))]),
        ((0, 4, 5), [0, 0], None),
        ((0, 1), [1], None),
    ],
)
def test_cores_of_the_devices_node_come_first(
    cores: tuple[int, ...], nodes: list[int], expected: list[tuple[int, ...]] | None
) -> None:
    assert divide_cores_near(cores, nodes, {0: range(4), 1: range(4, 8)}) == expected


@pytest.mark.parametrize("nodes", [[0], [3, 3, 1, 1], [2, 2, 2, 0, 1, 1, 0, 3], [0, 1], [3, 2, 1, 0]])
def test_shares_are_disjoint_cover_the_process_and_hold_near_cores(nodes: list[int]) -> None:
    cores = [*range(5, 90), 93]
    parts = divide_cores_near(cores, nodes, FOUR_NODES)
    assert sorted(core for part in parts for core in part) == cores
    for node in {*nodes}:
        near = [len({*part} & {*FOUR_NODES[node]}) for part, own in zip(parts, nodes, strict=True) if own == node]
        assert sum(near) == len({*cores} & {*FOUR_NODES[node]}), "no core of a device's node goes to another node"
        assert max(near) - min(near) <= 1


def test_a_node_without_a_device_goes_to_the_devices_before_it() -> None:
    """As on a server whose cards are at every second node: the two nodes of a socket are neighbours."""
    parts = divide_cores_near(range(96), [2, 0], FOUR_NODES)
    assert [(min(part), max(part), len(part)) for part in parts] == [(48, 95, 48), (0, 47, 48)]


@pytest.mark.parametrize(
    ("target", "nodes", "at_nodes", "expected", "rule"),
    [
        ("CPU", [1, 0], {0: {0, 1}, 1: {2, 3}}, [(0, 1), (2, 3)], ""),
        ("GPU", [1, 0], {0: {0, 1}, 1: {2, 3}}, [(0, 1), (2, 3)], ""),
        ("Ascend", [1, 0], {0: {0, 1}, 1: {2, 3}}, [(2, 3), (0, 1)], "each device's NUMA node first (nodes 1, 0)"),
        ("Ascend", None, {}, [(0, 1), (2, 3)], "equal shares in order, because npu-smi does not tell"),
        ("Ascend", [1, 0], {0: {0, 1}, 1: set()}, [(0, 1), (2, 3)], "because this process has too few cores"),
    ],
)
def test_the_rule_that_was_used_is_said(
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    nodes: list[int] | None,
    at_nodes: dict[int, set[int]],
    expected: list[tuple[int, ...]],
    rule: str,
) -> None:
    monkeypatch.setattr(module, "nodes_of_devices", lambda _: nodes)
    monkeypatch.setattr(module, "cores_of_nodes", lambda _: at_nodes)
    parts, said = share_cores(target, range(4), 2)
    assert parts == expected
    assert rule in said
    assert bool(said) == bool(rule)
