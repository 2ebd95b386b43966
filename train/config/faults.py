"""Faults of a configuration: functions that check return lists of them, and one error at the edge names them all."""

from collections.abc import Iterable
from dataclasses import dataclass

from convnext_imagenet.train.errors import ConfigError


@dataclass(frozen=True)
class Fault:
    """One mistake: the line that a user reads, and each `section.key` that it is about, whose value is not known."""

    text: str
    keys: frozenset[str] = frozenset()


def fault(text: str, *keys: str) -> Fault:
    """Return a fault about these keys."""
    return Fault(text, frozenset(keys))


def join_faults(first: Iterable[Fault], others: Iterable[Fault]) -> list[Fault]:
    """Return `first`, and those of `others` that are about no key of theirs.

    A fault of such a key says less, or rests on a default in place of a value that is not known.
    """
    kept = list(first)
    keys = frozenset[str]().union(*(one.keys for one in kept))
    return [*kept, *(one for one in others if not one.keys & keys)]


def refuse(faults: Iterable[Fault]) -> None:
    """Raise one ConfigError that names all faults. Without any, do nothing."""
    if lines := [one.text for one in faults]:
        raise ConfigError(*lines)
