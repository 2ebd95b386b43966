"""The interface of all kinds of inputs: numbered 0, 1, 2, ... and read by ranges of numbers.

Listing an input never raises: errors appear when it is loaded, and are written to its row. This file knows no kind.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from convnext_imagenet.base.files import sha256_json


@dataclass(frozen=True)
class Item:
    """One input: `load` returns its bytes, or raises OSError or BadImage; `label` is its class index if known.

    `kept` are values that go into its row, by the names of `kept_columns`.
    """

    source: str
    load: Callable[[], bytes]
    label: int | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)


class PlaceGone(OSError):
    """A file is missing because its folder is missing or empty, as when a disk is not mounted: it may come back."""


class Inputs(Protocol):
    """Inputs in one fixed order; another set of inputs has another `sha256`."""

    @property
    def count(self) -> int:
        """Return the number of inputs, at least one."""

    @property
    def sha256(self) -> str:
        """Return the fingerprint of the set."""

    def items(self, numbers: range) -> Iterator[Item]:
        """Yield the inputs with these numbers, in order; cheap, because `load` does the work."""

    def is_inside(self, path: Path) -> bool:
        """Return whether a file at `path` would become an input."""


def kept_columns(inputs: Inputs) -> pa.Schema:
    """Return the columns that these inputs add to their rows: those of their member `kept`, if they have one."""
    return getattr(inputs, "kept", pa.schema([]))


@dataclass(frozen=True)
class JoinedInputs:
    """Several sets of inputs, one after the other, as one set."""

    members: tuple[Inputs, ...]
    folder: Path | None = None  # the folder that holds only them, if any

    @property
    def kept(self) -> pa.Schema:
        """Return the columns that the inputs add to their rows; all members have the same."""
        return kept_columns(self.members[0])

    @property
    def count(self) -> int:
        """Return the number of inputs of all members."""
        return sum(member.count for member in self.members)

    @property
    def sha256(self) -> str:
        """Return the fingerprint of the members' fingerprints, in their order."""
        return sha256_json([member.sha256 for member in self.members])

    def items(self, numbers: range) -> Iterator[Item]:
        """Yield the inputs with these numbers, in order."""
        for index, _, wanted in split_range(numbers, (member.count for member in self.members)):
            yield from self.members[index].items(wanted)

    def is_inside(self, path: Path) -> bool:
        """Return whether a file at `path` would become an input of a member, or change what the folder means."""
        return lies_in(path, self.folder) or any(member.is_inside(path) for member in self.members)


def split_range(numbers: range, sizes: Iterable[int]) -> Iterator[tuple[int, int, range]]:
    """Yield where `numbers` lie in consecutive groups of these sizes: (group, its first number, range within it).

    Groups that hold none of the numbers are skipped.
    """
    first = 0
    for group, size in enumerate(sizes):
        wanted = range(max(numbers.start - first, 0), min(numbers.stop - first, size))
        if wanted:
            yield group, first, wanted
        first += size


def lies_in(path: Path, folder: Path | None) -> bool:
    """Return whether `path` is in `folder` or below it; False without a folder."""
    return folder is not None and path.resolve().is_relative_to(folder.resolve())


class Names:
    """Millions of names as bytes: each takes its own bytes and eight more (as objects in a list: 41 more)."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])

    def append(self, name: bytes) -> None:
        """Append a name."""
        self._text += name
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[bytes]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> bytes:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return bytes(self._text[self._ends[number] : self._ends[number + 1]])
