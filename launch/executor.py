"""The seam between what is done (write shard k, score part k) and where it runs: here, or on a cluster."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

OnProgress = Callable[[int], None]


class Unit(Protocol):
    """A unit of work that can be tried again: it is done iff its receipt is there, and done twice it is the same."""

    @property
    def title(self) -> str:
        """What a message calls it, so that the user finds its inputs."""

    def attempt(self, number: int) -> Self:
        """The same unit with a staging folder that no other attempt uses: one given up may still be writing."""


class Executor(Protocol):
    """Runs units somewhere. Returns when all are done; the first exception of one ends the rest and is raised here."""

    def run(
        self,
        function: Callable[[Any, OnProgress], None],
        tasks: Iterator[Any],
        count: int,
        on_progress: OnProgress,
        on_unit: Callable[[], None] = ...,
    ) -> None:
        """Call `function(task, on_progress)` for each of `count` tasks; `on_unit` is called as each is done."""
