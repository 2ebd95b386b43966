"""The interface between the work (write shard k, score part k) and where it runs: this machine or a cluster."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

OnProgress = Callable[[int], None]


class Unit(Protocol):
    """A unit of work that can be retried. It is done iff its receipt exists; done twice, it writes the same bytes."""

    @property
    def title(self) -> str:
        """Return its name in messages, which leads the user to its inputs."""

    def attempt(self, number: int) -> Self:
        """Return the same unit with its own staging folder, because an abandoned attempt may still be writing."""


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
        """Call `function(task, on_progress)` for each of the `count` tasks, and `on_unit()` after each."""
