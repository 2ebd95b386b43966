"""What can be scored: inputs of many kinds, all of them numbered 0, 1, 2, ... and read by ranges of numbers.

An input never raises while it is listed: errors appear when it is loaded, and are written to its row.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from convnext_imagenet.base.files import sha256_json


@dataclass(frozen=True)
class Item:
    """One input: `load` returns its bytes, or raises OSError or BadImage; `label` is its class index where known."""

    source: str
    load: Callable[[], bytes]
    label: int | None = None


class Inputs(Protocol):
    """Inputs in one fixed order; `sha256` stands for what they are, so that another set is told apart."""

    @property
    def count(self) -> int:
        """How many there are, at least one."""

    @property
    def sha256(self) -> str:
        """The fingerprint of the set."""

    def items(self, numbers: range) -> Iterator[Item]:
        """The inputs with these numbers, in order; cheap, since `load` does the work."""

    def is_inside(self, path: Path) -> bool:
        """Whether a file at `path` would be an input."""


@dataclass(frozen=True)
class JoinedInputs:
    """Several inputs one after the other, as one."""

    members: tuple[Inputs, ...]
    folder: Path | None = None  # that holds nothing else

    @property
    def count(self) -> int:
        """How many there are in all."""
        return sum(member.count for member in self.members)

    @property
    def sha256(self) -> str:
        """The fingerprint of theirs, in their order."""
        return sha256_json([member.sha256 for member in self.members])

    def items(self, numbers: range) -> Iterator[Item]:
        """Those with these numbers."""
        for index, _, wanted in split_range(numbers, (member.count for member in self.members)):
            yield from self.members[index].items(wanted)

    def is_inside(self, path: Path) -> bool:
        """Whether a file at `path` would be an input of one of them, or change what their folder means."""
        return lies_in(path, self.folder) or any(member.is_inside(path) for member in self.members)


def split_range(numbers: range, sizes: Iterable[int]) -> Iterator[tuple[int, int, range]]:
    """Yield where `numbers` lie in consecutive groups of these sizes: (group, its first number, those in it from 0).

    Groups that hold none of them are left out.
    """
    first = 0
    for group, size in enumerate(sizes):
        wanted = range(max(numbers.start - first, 0), min(numbers.stop - first, size))
        if wanted:
            yield group, first, wanted
        first += size


def lies_in(path: Path, folder: Path | None) -> bool:
    """Return whether `path` is in a folder or below it; never where there is none."""
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


class Names:
    """Millions of names as bytes: each costs its own bytes and eight more."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])

    def append(self, name: bytes) -> None:
        """Add one at the end."""
        self._text += name
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> bytes:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return bytes(self._text[self._ends[number] : self._ends[number + 1]])
