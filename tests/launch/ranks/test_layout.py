"""Where ranks meet, what each is told, and which cores it gets."""

import pytest

from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.rank import (
    DEFAULT_PORT,
    SINGLE_RANK,
    START_FACTOR,
    Layout,
    Rank,
    check_layout,
    divide_cores,
    own_rank,
    parse_master,
    rank_environment,
    scheduler_environment,
)


@pytest.mark.parametrize(
    ("text", "nodes", "expected"),
    [
        ("", 1, ("127.0.0.1", DEFAULT_PORT)),
        ("10.0.0.1", 1, ("10.0.0.1", DEFAULT_PORT)),
        ("node-0", 2, ("node-0", DEFAULT_PORT)),
        ("node-0:1", 2, ("node-0", 1)),
        ("node-0.cluster:65534", 2, ("node-0.cluster", 65534)),
    ],
)
def test_a_master_is_a_host_and_maybe_a_port(text: str, nodes: int, expected: tuple[str, int]) -> None:
    assert parse_master(text, nodes) == expected


@pytest.mark.parametrize("text", ["", ":8118", "h:", "h:0", "h:65535", "h:-1", "h:x", "h:1.5", "h:1:2", "::1", "h:²"])
def test_another_master_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LaunchError, match=r"2 machines meet at HOST or HOST:PORT .* 10\.0\.0\.1:8118") as error:
        parse_master(text, nodes=2)
    assert str(error.value).startswith(f"--master {text!r}: ")


@pytest.mark.parametrize(
    ("layout", "cores", "devices_here"),
    [
        (Layout(1, "CPU"), 1, None),
        (Layout(4, "CPU", nodes=3, node_rank=2), 4, None),
        (Layout(8, "Ascend"), 2, 8),
        (Layout(2, "GPU"), 1, 2),
    ],
)
def test_a_layout_that_fits_is_accepted(layout: Layout, cores: int, devices_here: int | None) -> None:
    check_layout(layout, cores, devices_here)


@pytest.mark.parametrize(
    ("layout", "devices_here", "said"),
    [
        (Layout(1, "CPU", nodes=2, node_rank=2), None, "--node-rank 2: must be below --nodes 2"),
        (Layout(5, "CPU"), None, "--devices 5: must not exceed the 4 cores of this process"),
        (Layout(2, "Ascend"), 1, r"--devices 2 --device-target Ascend: the drivers show 1 .*device target CPU"),
        (Layout(1, "GPU"), 0, r"--devices 1 --device-target GPU: the drivers show 0 .*doctor"),
    ],
)
def test_a_layout_that_this_machine_cannot_hold_is_refused(layout: Layout, devices_here: int | None, said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        check_layout(layout, 4, devices_here)


def test_nodes_take_their_ranks_in_order() -> None:
    layouts = [Layout(3, "CPU", nodes=4, node_rank=node) for node in range(4)]
    assert [rank for layout in layouts for rank in layout.local_ranks] == list(range(layouts[0].ranks))


@pytest.mark.parametrize("devices", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("cores", [range(16), (3, 4, 5, 9, 11, 20, 21, 40, 41, 42, 43, 44, 45, 46, 47, 50, 51)])
def test_cores_are_divided_once_and_evenly_among_neighbours(cores: range | tuple[int, ...], devices: int) -> None:
    parts = divide_cores(cores, devices)
    assert [core for part in parts for core in part] == list(cores), "disjoint, covering, in order"
    sizes = [len(part) for part in parts]
    assert len(sizes) == devices
    assert max(sizes) - min(sizes) <= 1


def test_too_few_cores_are_shared_by_all() -> None:
    assert divide_cores((2, 5), 3) == [(2, 5)] * 3


@pytest.mark.parametrize(("node_rank", "rank", "device"), [(0, 0, 0), (0, 1, 1), (1, 2, 0), (1, 3, 1)])
def test_a_rank_finds_its_place_in_the_environment(node_rank: int, rank: int, device: int) -> None:
    layout = Layout(2, "CPU", "10.0.0.1", 9000, nodes=2, node_rank=node_rank)
    environment = rank_environment(layout, rank, silence_s=7)
    assert own_rank(environment) == Rank(rank, 4, device)
    assert environment["MS_ROLE"] == "MS_WORKER"
    assert environment["MS_NODE_ID"] == str(rank)
    cluster = {"MS_WORKER_NUM": "4", "MS_SCHED_HOST": "10.0.0.1", "MS_SCHED_PORT": "9000"}
    waits = {"MS_CPU_COMM_OP_TIMEOUT": str(7 * START_FACTOR), "HCCL_EXEC_TIMEOUT": str(7 * START_FACTOR)}
    assert environment.items() >= (cluster | waits).items()
    scheduler = scheduler_environment(layout, silence_s=7)
    assert scheduler == {**cluster, **waits, "MS_ROLE": "MS_SCHED"}
    assert own_rank(scheduler) == SINGLE_RANK
