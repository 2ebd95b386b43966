"""What to say of a name that no configuration has: what it means elsewhere, or else the nearest name by its letters."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from convnext_imagenet.train.config.faults import Fault, fault
from convnext_imagenet.train.config.other_names import OTHER_NAMES, OtherName

# A wrong guess is worse than a list of names, so the letters must agree well (tests/train/config/test_unknown.py).
_CUTOFF = 0.75
# Words of ours that alone could mean many things, such as mix.prob and ema.decay.
_VAGUE = {"name", "kind", "level", "mode", "prob", "decay", "warmup", "device", "dtype", "variant"}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name whose letters are almost those of `name`, or None."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=_CUTOFF)), None)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return an error text for `name`, with the nearest known name or, if none is near, all of them."""
    names = list(known)
    near = nearest(name, names)
    hint = f"did you mean {near}?" if near else f"known: {', '.join(names)}"
    return f"unknown {what} {name}; {hint}"


def meaning(name: str, keys: Iterable[str]) -> OtherName | None:
    """Return what `name`, with or without a section, means here: by the table, or as a key of another section.

    `keys` are all keys as `section.key`.
    """
    plain = name.rpartition(".")[2].strip("-").lower().replace("-", "_")
    other = OTHER_NAMES.get(plain)
    if other is not None and other.targets:
        return other
    own = [] if plain in _VAGUE else [key for key in keys if key.endswith(f".{plain}")]
    return OtherName(tuple(own), "") if own else other


def unknown_key(section: str, name: str, keys: Iterable[str]) -> Fault:
    """Return the fault of a key that its section, which is known, does not have."""
    keys = list(keys)
    if (other := meaning(name, keys)) is not None:
        return fault(f"unknown key {section}.{name}; {other}", *other.targets)
    near = nearest(name, [key.removeprefix(f"{section}.") for key in keys if key.startswith(f"{section}.")])
    if near is not None:
        return fault(f"unknown key {section}.{name}; did you mean {section}.{near}?", f"{section}.{near}")
    by_name = {key.partition(".")[2]: key for key in keys}
    if (near := nearest(name, by_name)) is not None:
        return fault(f"unknown key {section}.{name}; did you mean {by_name[near]}?", by_name[near])
    names = ", ".join(key for key in keys if key.startswith(f"{section}."))
    return fault(f"unknown key {section}.{name}; known: {names}")


def unknown_section(section: str, content: Mapping[str, Any], keys: Iterable[str]) -> list[Fault]:
    """Return the faults of a section that no configuration has: its keys that mean something here, or else itself."""
    keys = list(keys)
    sections = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    near = nearest(section, sections)
    meant = [f"{near}.{name}" for name in content if f"{near}.{name}" in keys]
    known = {name: other for name in content if f"{near}.{name}" not in keys and (other := meaning(name, keys))}
    faults = [fault(f"unknown key {section}.{name}; {other}", *other.targets) for name, other in known.items()]
    if known and len(known) == len(content):
        return faults
    return [fault(unknown_name("section", section, sections), *meant), *faults]


def without_section(name: str, keys: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Return the advice for a name that lacks its section, "" if there is none, and the keys that it means."""
    keys = list(keys)
    if (other := meaning(name, keys)) is not None:
        return str(other), other.targets
    by_name = {key.partition(".")[2]: key for key in keys}
    near = nearest(name, by_name)
    return (f"did you mean {by_name[near]}?", (by_name[near],)) if near else ("", ())
