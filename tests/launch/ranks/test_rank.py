"""Which rank a process is, where ranks find each other, what each is told, and which cores it gets."""

import subprocess
import sys

import pytest

from convnext_imagenet.launch.devices import collective_environment
from convnext_imagenet.launch.errors import LaunchError
from convnext_imagenet.launch.ranks.rank import (
    DEFAULT_PORT,
    SINGLE_RANK,
    START_FACTOR,
    Layout,
    Rank,
    check_layout,
    default_environment,
    divide_cores,
    own_rank,
    parse_rendezvous,
    rank_environment,
    scheduler_environment,
)

WORKER = {"MS_ROLE": "MS_WORKER", "RANK_ID": "2", "RANK_SIZE": "4", "DEVICE_ID": "0"}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 50, 1000, 50_000])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 64])
def test_shares_are_disjoint_in_order_even_and_cover_all(count: int, ranks: int) -> None:
    shares = [Rank(rank, ranks).share(count) for rank in range(ranks)]
    assert [number for share in shares for number in share] == list(range(count))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("environment", [{}, {"RANK_ID": "1", "RANK_SIZE": "2"}, {**WORKER, "MS_ROLE": "MS_SCHED"}])
def test_a_process_that_is_no_worker_is_a_single_rank(environment: dict[str, str]) -> None:
    assert own_rank(environment) == SINGLE_RANK
    assert SINGLE_RANK.is_first
    assert SINGLE_RANK.share(9) == range(9)


def test_a_worker_is_the_rank_that_its_environment_says() -> None:
    assert own_rank(WORKER) == Rank(number=2, world=4, device=0)
    assert not own_rank(WORKER).is_first


@pytest.mark.parametrize("name", ["RANK_ID", "RANK_SIZE", "DEVICE_ID"])
@pytest.mark.parametrize("value", [None, "", "one", "1.5"])
def test_a_worker_without_a_whole_number_is_refused(name: str, value: str | None) -> None:
    environment = {key: text for key, text in {**WORKER, name: value}.items() if text is not None}
    with pytest.raises(LaunchError, match="RANK_ID, RANK_SIZE, DEVICE_ID are not whole numbers; start ranks with"):
        own_rank(environment)


@pytest.mark.parametrize(("rank", "ranks"), [("4", "4"), ("-1", "4"), ("0", "0")])
def test_a_rank_outside_its_job_is_refused(rank: str, ranks: str) -> None:
    with pytest.raises(LaunchError, match=f"RANK_ID = {rank}: must be below RANK_SIZE = {ranks}"):
        own_rank({**WORKER, "RANK_ID": rank, "RANK_SIZE": ranks})


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
def test_a_rendezvous_is_a_host_and_maybe_a_port(text: str, nodes: int, expected: tuple[str, int]) -> None:
    assert parse_rendezvous(text, nodes) == expected


@pytest.mark.parametrize("text", ["", ":8118", "h:", "h:0", "h:65535", "h:-1", "h:x", "h:1.5", "h:1:2", "::1", "h:²"])
def test_another_rendezvous_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LaunchError, match=r"expected HOST or HOST:PORT of machine 0, .* 10\.0\.0\.1:8118") as error:
        parse_rendezvous(text, nodes=2)
    assert str(error.value).startswith(f"--rendezvous {text!r}: ")


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
        (Layout(2, "Ascend"), 1, r"--devices 2 --device-target Ascend: the drivers show 1 .*--device-target CPU"),
        (Layout(1, "GPU"), 0, r"--devices 1 --device-target GPU: the drivers show 0 .*doctor"),
    ],
)
def test_a_layout_that_this_machine_cannot_hold_is_refused(layout: Layout, devices_here: int | None, said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        check_layout(layout, 4, devices_here)


def test_nodes_take_their_ranks_in_order() -> None:
    layouts = [Layout(3, "CPU", nodes=4, node_rank=node) for node in range(4)]
    assert [rank for layout in layouts for rank in layout.local_ranks] == list(range(layouts[0].world))


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
def test_a_rank_finds_its_number_in_the_environment(node_rank: int, rank: int, device: int) -> None:
    layout = Layout(2, "CPU", "10.0.0.1", 9000, nodes=2, node_rank=node_rank)
    environment = rank_environment(layout, rank)
    assert own_rank(environment) == Rank(rank, 4, device)
    assert environment["MS_ROLE"] == "MS_WORKER"
    assert environment["MS_NODE_ID"] == str(rank)
    cluster = {"MS_WORKER_NUM": "4", "MS_SCHED_HOST": "10.0.0.1", "MS_SCHED_PORT": "9000"}
    assert environment.items() >= cluster.items()
    scheduler = scheduler_environment(layout)
    assert scheduler == {**cluster, "MS_ROLE": "MS_SCHED"}
    assert own_rank(scheduler) == SINGLE_RANK


def test_ranks_wait_for_each_other_as_long_as_the_launcher_waits_for_a_first_step() -> None:
    assert default_environment(100) == collective_environment(100 * START_FACTOR)


def test_the_launcher_needs_no_mindspore() -> None:
    """The process that the user starts would wait seconds for it, and hold its memory for as long as the job runs."""
    program = "import sys, convnext_imagenet.launch.ranks.launcher; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
