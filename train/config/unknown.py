"""What to say of a name that no configuration has: what it means elsewhere, or else the nearest name by its letters."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from convnext_imagenet.train.config.faults import Fault, fault
from convnext_imagenet.train.config.other_names import OTHER_NAMES, OtherName

# How well letters must agree, from 0 to 1. A wrong guess is worse than a list of the names, so the numbers lie between
# typing mistakes and other words (tests/train/config/test_unknown.py): among few names, then among the keys of all
# sections, then among the nine sections, which have little in common.
_CUTOFF, _CUTOFF_ANYWHERE, _CUTOFF_SECTION = 0.8, 0.85, 0.7
# Names of ours that other sections could have, too: augment has a probability for each of its parts.
_VAGUE = {"name", "kind", "level", "mode", "prob", "decay"}


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return an error text for `name`, with the nearest known name or, if none is near, all of them."""
    names = list(known)
    near = _nearest(name, names, _CUTOFF)
    return f"unknown {what} {name}; {f'did you mean {near}?' if near else _known(names)}"


def meaning(name: str, keys: Iterable[str]) -> OtherName | None:
    """Return what `name`, with or without a section, means here: by the table, or as a key of another section.

    `keys` are all keys as `section.key`.
    """
    plain = name.rpartition(".")[2].strip("-").lower().replace("-", "_")
    other = OTHER_NAMES.get(plain)
    if other is not None and other.targets:
        return other
    own = _by_name(keys).get(plain)
    return OtherName((own,), "") if own else other


def unknown_key(section: str, name: str, keys: Iterable[str]) -> Fault:
    """Return the fault of a key that its section, which is known, does not have."""
    keys = list(keys)
    if (other := meaning(name, keys)) is not None:
        return fault(f"unknown key {section}.{name}; {other}", *other.targets)
    own = [key for key in keys if key.startswith(f"{section}.")]
    near = _nearest(name, [key.partition(".")[2] for key in own], _CUTOFF)
    found = f"{section}.{near}" if near else _nearest_key(name, keys)
    if found is None:
        return fault(f"unknown key {section}.{name}; {_known(own)}")
    return fault(f"unknown key {section}.{name}; did you mean {found}?", found)


def unknown_section(section: str, content: Mapping[str, Any], keys: Iterable[str]) -> list[Fault]:
    """Return the faults of a section that no configuration has: its keys that mean something here, or else itself."""
    keys = list(keys)
    sections = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    other = meaning(section, keys)
    meant = other.targets[0].partition(".")[0] if other and other.targets else ""
    near = meant if meant in sections else _nearest(section, sections, _CUTOFF_SECTION)
    strange = {name: meaning(name, keys) for name in content if f"{near}.{name}" not in keys}
    faults = [fault(f"unknown key {section}.{name}; {it}", *it.targets) for name, it in strange.items() if it]
    if faults and len(faults) == len(content):
        return faults
    hint = f"did you mean {near}?" if near else _known(sections)
    doubted = [f"{near}.{name}" for name in content if name not in strange]
    return [fault(f"unknown section {section}; {hint}", *doubted), *faults]


def without_section(name: str, keys: Iterable[str]) -> OtherName | None:
    """Return what a name that lacks its section means, by the table or by its letters, or None."""
    keys = list(keys)
    near = _nearest_key(name, keys)
    return meaning(name, keys) or (OtherName((near,), "") if near else None)


def _nearest(name: str, known: Iterable[str], cutoff: float) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def _nearest_key(name: str, keys: Iterable[str]) -> str | None:
    """Return the key of any section whose name without the section has almost the letters of `name`, or None."""
    by_name = _by_name(keys)
    near = _nearest(name, by_name, _CUTOFF_ANYWHERE)
    return by_name[near] if near else None


def _by_name(keys: Iterable[str]) -> dict[str, str]:
    """Return each `section.key` by its key alone, where this says which key is meant."""
    names = [(key.partition(".")[2], key) for key in keys]
    times = Counter(name for name, _ in names)
    return {name: key for name, key in names if times[name] == 1 and name not in _VAGUE}


def _known(names: Iterable[str]) -> str:
    return f"known: {', '.join(names)}"
