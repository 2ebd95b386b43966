"""Cards, their chips and their NUMA nodes, from the output of a stand-in for npu-smi and the files of a fake system."""

from pathlib import Path

import pytest

from convnext_imagenet.launch.npu_smi import (
    Card,
    cores_of_nodes,
    name_in_cann,
    nodes_of_devices,
    parse_cards,
    parse_cores,
    read_cards,
)

# The forms of the output by generation: A2 has a controller (Mcu) beside each chip, A3 two chips on a card, 950 neither
# logic ID nor one column for it. Only the columns' names and order are npu-smi's.
A2 = """\
\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name
\t0                              0                              0                              Ascend 910B3
\t0                              1                              -                              Mcu
\t5                              0                              1                              Ascend 910B3
\t5                              1                              -                              Mcu
"""
A3 = """\
NPU ID                Chip ID               Chip Logic ID         Chip Phy-ID           Chip Name
1                     0                     2                     2                     Ascend910
0                     0                     0                     0                     Ascend910
0                     1                     1                     1                     Ascend910
0                     2                     -                     -                     Mcu
1                     1                     3                     3                     Ascend910
"""
NO_LOGIC_ID = """\
NPU ID          Slot ID         Chip ID         Chip Phy-ID     Chip Name
0               0               0               0               Ascend950PR
1               1               0               1               Ascend950PR
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (A2, [Card(0, "0", "0", "Ascend 910B3"), Card(1, "5", "0", "Ascend 910B3")]),
        (A3, [Card(number, str(number // 2), str(number % 2), "Ascend910") for number in range(4)]),
        (NO_LOGIC_ID, [Card(0, "0", "0", "Ascend950PR"), Card(1, "1", "0", "Ascend950PR")]),
        ("", []),
        ("dcmi module initialize failed. ret is -8005\n", []),
        (A2.replace("Chip Name", "Name"), []),
        (A2 + "one more line\n", []),
    ],
    ids=["A2", "A3", "no logic ID", "nothing", "an error", "another column", "another line"],
)
def test_cards_are_read_or_nothing_is_known(text: str, expected: list[Card]) -> None:
    assert parse_cards(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Ascend 910B3", "Ascend910B3"),
        ("910ProB", "Ascend910ProB"),
        ("Ascend910", ""),  # so it names the chips of an Atlas A3
        ("", ""),
    ],
)
def test_a_chip_has_one_name_in_cann_if_it_can_be_told(name: str, expected: str) -> None:
    assert name_in_cann(name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-3\n", {0, 1, 2, 3}), ("0-1,8,10-11", {0, 1, 8, 10, 11}), ("7", {7}), ("", set()), ("0-", set()), ("a", set())],
)
def test_a_list_of_cores_is_read_or_empty(text: str, expected: set[int]) -> None:
    assert parse_cores(text) == expected


BUSES = {"0": "0000:C1:00.0", "5": "0000:01:00.0"}  # of the NPUs of A2


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a machine with the cards of A2: device 0 at node 1, device 1 at node 0, four cores each."""
    tool = tmp_path / "bin" / "npu-smi"
    tool.parent.mkdir()
    (tmp_path / "map").write_text(A2)
    boards = "".join(f"{npu}) echo '  PCIe Bus Info      : {bus}' ;; " for npu, bus in BUSES.items())
    tool.write_text(
        f'#!/bin/sh\nif [ "$*" = "info -m" ]; then cat {tmp_path / "map"}; exit; fi\n'
        f'[ "$1 $2 $3 $4 $6 $7" = "info -t board -i -c 0" ] || exit 1\ncase $5 in {boards} esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    for bus, node in (("0000:c1:00.0", 1), ("0000:01:00.0", 0)):
        folder = tmp_path / "sys/bus/pci/devices" / bus
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{node}\n")
    for node, cores in enumerate(("0-3", "4-7")):
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cores}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("devices", "visible", "expected"),
    [
        (2, "", [1, 0]),
        (1, "", [1]),
        (1, "1", [0]),
        (2, "1, 0", [1, 0]),  # MindSpore counts the visible cards in their own order
        (3, "", None),
        (2, "1", None),
        (1, "7", None),
        (1, "all", None),
    ],
)
def test_devices_are_at_the_nodes_of_their_cards(
    machine: Path, devices: int, visible: str, expected: list[int] | None
) -> None:
    environment = {"ASCEND_RT_VISIBLE_DEVICES": visible} if visible else {}
    assert nodes_of_devices(devices, environment, machine) == expected


def test_nodes_have_the_cores_that_the_system_lists(machine: Path) -> None:
    assert cores_of_nodes([1, 0, 1, 9], machine) == {0: {0, 1, 2, 3}, 1: {4, 5, 6, 7}, 9: set()}


@pytest.mark.parametrize("text", ["-1\n", "", None])
def test_a_card_whose_node_the_system_does_not_know_makes_all_unknown(machine: Path, text: str | None) -> None:
    file = machine / "sys/bus/pci/devices/0000:01:00.0/numa_node"
    file.unlink() if text is None else file.write_text(text)
    assert nodes_of_devices(2, {}, machine) is None
    assert nodes_of_devices(1, {}, machine) == [1]


def test_without_the_tool_or_if_it_fails_nothing_is_known(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [card.name for card in read_cards()] == ["Ascend 910B3", "Ascend 910B3"]
    (machine / "bin" / "npu-smi").write_text("#!/bin/sh\necho 'NPU ID  Chip ID  Chip Name'\nexit 255\n")
    assert read_cards() == []
    monkeypatch.setenv("PATH", "")
    assert read_cards() == []
    assert nodes_of_devices(1, {}, machine) is None
