"""The interface between what is done (write shard k, score part k) and where it runs: here, or on a cluster."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

OnProgress = Callable[[int], None]


class Unit(Protocol):
    """A unit of work that can be retried: done iff its receipt exists, and twice it leaves the same bytes."""

    @property
    def title(self) -> str:
        """Its name in messages, by which the user finds its inputs."""

    def attempt(self, number: int) -> Self:
        """Return the same unit with a staging folder of its own: an attempt that was given up may still be writing."""


class Executor(Protocol):
    """Runs units; the first exception of a unit stops the others and is raised in the caller."""

    def run(
        self,
        function: Callable[[Any, OnProgress], None],
        tasks: Iterator[Any],
        count: int,
        on_progress: OnProgress,
        on_unit: Callable[[], None] = ...,
    ) -> None:
        """Call `function(task, on_progress)` for each of `count` tasks and `on_unit()` after each of them."""
