"""How the plan in a directory differs from the plan of this program, in words. Pure: reads no file."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MOST_SHOWN, _MOST_CHARACTERS = 3, 40  # an error stays short enough to read


class _Missing:
    """The value of a key that a plan does not have."""


MISSING = _Missing()


@dataclass(frozen=True)
class Difference:
    """A dotted key with its value in the directory's plan and in this program's; MISSING where a plan lacks it."""

    key: str
    stored: Any
    wanted: Any

    def __str__(self) -> str:
        return f"{self.key} is {_shown(self.stored)} in the directory, now {_shown(self.wanted)}"


def differences(
    stored: Any,
    wanted: Any,
    neutral: Mapping[str, Any] | None = None,
    prefix: str = "",
    outside: Collection[str] = (),
) -> list[Difference]:
    """Return the keys in which two JSON objects differ, sorted.

    `neutral` maps a dotted key to the value that stands for it in a stored plan without the key: what programs did
    before the key was added (DECISIONS, 2026-11-28). A key that only the stored plan has differs, because this program
    cannot do what it asks for; except the dotted keys `outside`, which were part of plans and decide nothing there
    (DECISIONS, 2026-11-29).
    """
    if not isinstance(stored, dict) or not isinstance(wanted, dict):
        return [] if _text(stored) == _text(wanted) else [Difference(prefix or "plan", stored, wanted)]
    found = []
    for key in sorted(stored.keys() | wanted.keys()):
        name = f"{prefix}.{key}" if prefix else key
        there, here = stored.get(key, MISSING), wanted.get(key, MISSING)
        if here is MISSING and name in outside:
            continue
        if there is MISSING:
            # A new section counts as empty, so that each of its keys is compared with its own neutral value.
            there = {} if isinstance(here, dict) else (neutral or {}).get(name, MISSING)
        elif here is MISSING and isinstance(there, dict):
            here = {}
        found += differences(there, here, neutral, name, outside)
    return found


def with_values(plan: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan with the values of these dotted keys, which it must have, replaced."""
    replaced = json.loads(json.dumps(plan))
    for key, value in values.items():
        *parents, name = key.split(".")
        section = replaced
        for parent in parents:
            section = section[parent]
        section[name] = value
    return replaced


def describe(changed: Sequence[Difference]) -> str:
    """Return all keys that differ, then both values of the first few; rules come first, as they explain most."""
    keys = ", ".join(difference.key for difference in changed)
    shown = sorted(changed, key=lambda difference: not difference.key.startswith("rules."))[:_MOST_SHOWN]
    return f"(differs in: {keys}): {'; '.join(map(str, shown))}"


def way_back(changed: Sequence[Difference], begun_by: str) -> str:
    """Return how to resume the directory when a rule or a library has changed; else an empty string.

    `begun_by` is the version of this package that started the directory.
    """
    libraries = [each for each in changed if each.key.startswith("versions.") and each.stored is not MISSING]
    needed = [f"{each.key.removeprefix('versions.')} {each.stored}" for each in libraries]
    if any(each.key.startswith("rules.") for each in changed):
        needed.insert(0, f"convnext_imagenet {begun_by}")
    return f", or resume it with the versions that started it: {', '.join(needed)}" if needed else ""


def _shown(value: Any) -> str:
    if value is MISSING:
        return "missing"
    text = _text(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def _text(value: Any) -> str:
    return "" if value is MISSING else json.dumps(value, sort_keys=True, ensure_ascii=False)
