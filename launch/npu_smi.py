"""What the tool `npu-smi` of Ascend's driver says of this machine's cards: their names, and the NUMA nodes they are at.

MindSpore reads the same output in `mindspore/runtime/thread_bind_core.py`. Without the tool, or with output of another
form, nothing is known, and nothing fails.
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 20  # the tool waits for each card's firmware


@dataclass(frozen=True)
class Card:
    """One device: `number` as MindSpore counts, `npu` and `chip` as the tool does, and its chip's name."""

    number: int
    npu: str
    chip: str
    name: str


def read_cards() -> list[Card]:
    """Return the cards of this machine in order of their numbers; none if they are not known."""
    return parse_cards(_ask("info", "-m"))


def parse_cards(text: str) -> list[Card]:
    """Return the cards in the output of `npu-smi info -m`; none if it has another form."""
    header, *rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()] or [[]]
    # A3 and later have two chips on a card: there only the logic ID counts all of them.
    numbered = "Chip Logic ID" if "Chip Logic ID" in header else "NPU ID"
    cards = []
    for row in rows:
        values = dict(zip(header, row, strict=False))
        if len(row) != len(header) or not {"NPU ID", "Chip ID", "Chip Name"} <= values.keys():
            return []
        if values["Chip Name"].lower() != "mcu" and values[numbered].isdecimal():
            cards.append(Card(int(values[numbered]), values["NPU ID"], values["Chip ID"], values["Chip Name"]))
    return sorted(cards, key=lambda card: card.number)


def name_in_cann(name: str) -> str:
    """Return CANN's name of a chip, such as Ascend910B3, from npu-smi's; "" for "Ascend910": it may be an Atlas A3."""
    short = re.sub(r"\s|ascend", "", name, flags=re.IGNORECASE)
    return "" if short in ("", "910") else f"Ascend{short}"


def nodes_of_devices(
    devices: int, environment: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> list[int] | None:
    """Return the NUMA nodes of the first `devices` visible cards, None if one of them is not known."""
    cards = {card.number: card for card in read_cards()}
    numbers = _visible(environment.get("ASCEND_RT_VISIBLE_DEVICES", ""), sorted(cards))[:devices]
    if len(numbers) < devices or not set(numbers) <= cards.keys():
        return None
    nodes = [_node(cards[number], root) for number in numbers]
    return None if None in nodes else [node for node in nodes if node is not None]


def cores_of_nodes(nodes: Sequence[int], root: Path = Path("/")) -> dict[int, set[int]]:
    """Return the cores of each NUMA node; the empty set for a node that the system does not list."""
    return {node: parse_cores(_read(root / f"sys/devices/system/node/node{node}/cpulist")) for node in {*nodes}}


def parse_cores(text: str) -> set[int]:
    """Return the cores of a list such as "0-23,96"; the empty set for any other text."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            return set()
        cores |= {*range(int(match[1]), int(match[2] or match[1]) + 1)}
    return cores


def _visible(text: str, numbers: list[int]) -> list[int]:
    """Return the cards that this process may use, in MindSpore's order; all if the variable is not set."""
    if not text.strip():
        return numbers
    parts = [part.strip() for part in text.split(",")]
    return sorted(map(int, parts)) if all(part.isdecimal() for part in parts) else []


def _node(card: Card, root: Path) -> int | None:
    # One generation (950, without a logic ID) is asked by card only; MindSpore makes the same difference.
    board = _ask("info", "-t", "board", "-i", card.npu, "-c", card.chip) or _ask("info", "-t", "board", "-i", card.npu)
    bus = re.search(r"^\s*PCIe Bus Info\s*:\s*([\da-fA-F:.]+)\s*$", board, re.MULTILINE)
    node = _read(root / f"sys/bus/pci/devices/{bus[1].lower()}/numa_node").strip() if bus else ""
    return int(node) if node.isdecimal() else None  # -1: the system does not know it


def _ask(*words: str) -> str:
    try:
        done = subprocess.run(
            ["npu-smi", *words], capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
