"""How a configuration key is declared: its default, the rule for its value, and what older runs did without it."""

from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import Any, Literal, get_args, get_origin

NEUTRAL = "neutral"  # the metadata of a key that was added later
OUTSIDE_PLAN = "outside plan"  # the metadata of a key that is no part of a RUN's plan


@dataclass(frozen=True)
class Rule:
    """The rule for a key's value: `text` for the error message, and the predicate `holds`."""

    text: str
    holds: Callable[[Any], bool]


def key(default: Any, text: str, holds: Callable[[Any], bool]) -> Any:
    """Declare a configuration key: its default and its rule."""
    return field(default=default, metadata={"rule": Rule(text, holds)})


def added_later(declared: Any, neutral: Any) -> Any:
    """Declare a key that older programs did not have. `neutral` is the value that matches what they did.

    A RUN whose plan lacks the key resumes only if the requested value is `neutral`. The default may change later, the
    neutral value may not (DECISIONS, 2026-11-28). If no value matches the old behaviour, declare the key without this
    function: older runs are then refused.
    """
    return field(default=declared.default, metadata={**declared.metadata, NEUTRAL: neutral})


def outside_plan(declared: Any) -> Any:
    """Declare a key that is no part of a RUN's plan: it changes no number of a step, or only the order of sums.

    A RUN resumes with any value of the key, and so does one whose plan still names it (DECISIONS, 2026-11-29).
    """
    return field(default=declared.default, metadata={**declared.metadata, OUTSIDE_PLAN: True})


def at_least(default: Any, least: float) -> Any:
    """Declare a key whose value is a number of at least `least`."""
    return key(default, f"must be at least {least}", lambda v: v >= least)


def positive(default: float) -> Any:
    """Declare a key whose value is a number greater than 0."""
    return key(default, "must be greater than 0", lambda v: v > 0)


def probability(default: float) -> Any:
    """Declare a key whose value is a probability, in [0, 1]."""
    return key(default, "must be in [0, 1]", lambda v: 0 <= v <= 1)


def fraction(default: float) -> Any:
    """Declare a key whose value is in [0, 1)."""
    return key(default, "must be in [0, 1)", lambda v: 0 <= v < 1)


def choice(default: str) -> Any:
    """Declare a key whose value is one of the words of its Literal type."""
    return field(default=default)


def interval(default: tuple[float, float]) -> Any:
    """Declare a key whose value is [low, high] with 0 < low <= high <= 1."""
    return key(default, "must be [low, high] with 0 < low <= high <= 1", is_interval)


def is_interval(value: tuple[float, ...]) -> bool:
    """Return whether `value` is (low, high) with 0 < low <= high <= 1."""
    return len(value) == 2 and 0 < value[0] <= value[1] <= 1


def ratios(default: tuple[float, float], of: str) -> Any:
    """Declare a key whose value is [low, high], ratios of the sides of a box; `of` says which sides."""
    return key(
        default,
        f"must be [low, high] of {of} with 0.001 <= low <= high <= 1000",
        lambda v: len(v) == 2 and 0.001 <= v[0] <= v[1] <= 1000,
    )


def rule_of(declared: Field) -> Rule:
    """Return the rule of a declared key; the value of a Literal must be one of its words."""
    if get_origin(declared.type) is Literal:
        words = get_args(declared.type)
        quoted = " or ".join(f'"{word}"' for word in words)
        return Rule(f"must be {quoted}", lambda v: v in words)
    return declared.metadata["rule"]
