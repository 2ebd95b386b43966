"""The grammar of RandAugment policies, such as rand-m9-mstd0.5-inc1 (timm's)."""

import re
from dataclasses import dataclass
from functools import lru_cache

from convnext_imagenet.train.errors import ConfigError

TOP_MAGNITUDE = 10.0  # timm's _LEVEL_DENOM: magnitudes are tenths of an operation's range
_MOST_OPERATIONS = 8  # timm's default is 2; more than 8 is a typing mistake
_PART = re.compile(r"(m|mstd|n|inc)(\d+(?:\.\d+)?)")
_GRAMMAR = "must be rand-mM-mstdS-nN-incI, in any order: 0 <= M <= 10, 0 <= S <= 10, 1 <= N <= 8, I 0 or 1"


@dataclass(frozen=True)
class Policy:
    """Magnitude (0..10) and its standard deviation, operations per sample, and which of timm's two sets.

    In the increasing set a larger magnitude never makes an operation weaker.
    """

    magnitude: float = 10.0
    magnitude_std: float = 0.0
    count: int = 2
    is_increasing: bool = False


@lru_cache
def parse_policy(text: str) -> Policy:
    """Return the policy that `text` names. Raises ConfigError when it does not match the grammar.

    `inc0` switches the increasing set off. In timm it is on, because timm takes any text for true.
    """
    head, *parts = text.split("-")
    values: dict[str, float] = {}
    for part in parts:
        match = _PART.fullmatch(part)
        if match is None or match[1] in values:
            raise ConfigError(f"{text!r}: {part!r} is unknown or repeated; a policy {_GRAMMAR}")
        values[match[1]] = float(match[2])
    policy = Policy(
        magnitude=values.get("m", TOP_MAGNITUDE),
        magnitude_std=values.get("mstd", 0.0),
        count=int(values.get("n", 2)),
        is_increasing=values.get("inc", 0) == 1,
    )
    is_whole = values.get("n", 2.0).is_integer() and values.get("inc", 0.0) in (0.0, 1.0)
    is_in_range = max(policy.magnitude, policy.magnitude_std) <= TOP_MAGNITUDE
    fits = is_in_range and 1 <= policy.count <= _MOST_OPERATIONS
    if head != "rand" or not (is_whole and fits):
        raise ConfigError(f"{text!r}: {_GRAMMAR}")
    return policy
