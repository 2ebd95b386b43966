"""How a configuration key is declared: its default, what its value must fulfil, and what older runs did without it."""

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import Any, Literal, get_args, get_origin

NEUTRAL = "neutral"  # the metadata of a key that was added later


@dataclass(frozen=True)
class Rule:
    """What a key's value must fulfil, in words for the error and as a predicate."""

    text: str
    holds: Callable[[Any], bool]


def key(default: Any, text: str, holds: Callable[[Any], bool]) -> Any:
    """Declare a configuration key: its default and its rule."""
    return field(default=default, metadata={"rule": Rule(text, holds)})


def added_later(declared: Any, neutral: Any) -> Any:
    """Declare a key that runs of older programs lack: `declared` as any other, `neutral` what these programs did.

    A RUN whose plan lacks the key resumes if and only if the value asked for is `neutral`. It stays as it is when the
    default changes. A key that no value makes neutral is declared without this, and older runs are refused.
    """
    return field(default=declared.default, metadata={**declared.metadata, NEUTRAL: neutral})


def at_least(default: Any, least: float) -> Any:
    """Declare a key of numbers from `least` up."""
    return key(default, f"must be at least {least}", lambda v: v >= least)


def positive(default: float) -> Any:
    """Declare a key of numbers above 0."""
    return key(default, "must be greater than 0", lambda v: v > 0)


def probability(default: float) -> Any:
    """Declare a key of probabilities."""
    return key(default, "must be in [0, 1]", lambda v: 0 <= v <= 1)


def fraction(default: float) -> Any:
    """Declare a key of numbers from 0 up to, but not including, 1."""
    return key(default, "must be in [0, 1)", lambda v: 0 <= v < 1)


def choice(default: str) -> Any:
    """Declare a key that takes one of the words of its type, a Literal."""
    return field(default=default)


def interval(default: tuple[float, float], of: str = "", most: float = math.inf) -> Any:
    """Declare a key of two numbers, `of` something, the lower first, above 0 and up to `most`."""
    bound = "" if math.isinf(most) else f" <= {most:g}"
    return key(default, f"must be [low, high]{of} with 0 < low <= high{bound}", lambda v: is_interval(v, most))


def is_interval(value: tuple[float, ...], most: float = math.inf) -> bool:
    """Whether the numbers are two, the lower first, above 0 and up to `most`."""
    return len(value) == 2 and 0 < value[0] <= value[1] <= most


def rule_of(declared: Field) -> Rule:
    """Return the rule of a declared key; that of a Literal is to be one of its words."""
    if get_origin(declared.type) is Literal:
        words = get_args(declared.type)
        quoted = " or ".join(f'"{word}"' for word in words)
        return Rule(f"must be {quoted}", lambda v: v in words)
    return declared.metadata["rule"]
