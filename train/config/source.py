"""Reads configurations from TOML (a preset's name or a path, then `--set` overrides) and writes them back as TOML.

It writes only the types that `config.py` has: strings, booleans, whole numbers, fractions and flat lists.
"""

import importlib.resources
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from convnext_imagenet.train.config.config import Config, dotted_keys, read_mapping
from convnext_imagenet.train.config.faults import Fault, fault, join_faults, refuse
from convnext_imagenet.train.config.fit import RunFacts, fit_faults
from convnext_imagenet.train.config.unknown import unknown_name, without_section
from convnext_imagenet.train.errors import ConfigError

_NUMERIC = (bool, int, float, tuple[int, ...], tuple[float, ...])
_PRESETS = "convnext_imagenet.train.presets"


def preset_names() -> list[str]:
    """Return the names of the presets in the package, sorted."""
    files = importlib.resources.files(_PRESETS).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_config(name_or_path: str, overrides: Iterable[str] = (), facts: RunFacts | None = None) -> Config:
    """Return a preset, or the configuration in a `.toml` file, with `section.key=value` overrides applied.

    `data.device_batch_size` and `optimizer.accumulate_steps` both state the micro-batches, so an override of one of
    them also replaces the other one of the file. An `accumulate_steps` of 0 states nothing. With `facts` the
    configuration must also fit them.

    Raises ConfigError for an unknown preset, an unreadable file and bad TOML, and one that names all other faults.
    """
    values, faults = _read_stated(name_or_path, overrides)
    read = read_mapping(values)
    refuse(join_faults([*faults, *read.faults], fit_faults(read.config, facts or RunFacts())))
    return read.config


def stated_values(name_or_path: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return the sections of keys that a preset or file and the overrides state, without defaults and unchecked.

    Raises ConfigError for an unknown preset, an unreadable file, bad TOML and overrides of another form.
    """
    values, faults = _read_stated(name_or_path, overrides)
    refuse(faults)
    return values


def _read_stated(name_or_path: str, overrides: Iterable[str]) -> tuple[dict[str, Any], list[Fault]]:
    values = _parse(_read(name_or_path), name_or_path)
    changes, faults = _parse_overrides(overrides)
    for section, name in _replaced({f"{section}.{name}": value for section, name, value in changes}):
        if isinstance(values.get(section), dict):
            values[section].pop(name, None)
    for section, name, value in changes:
        if isinstance(values.setdefault(section, {}), dict):  # anything else is a fault of the file
            values[section][name] = value
    return values, faults


def _replaced(changes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the key of the file that these overrides replace without naming it."""
    rows, count = "data.device_batch_size" in changes, bool(changes.get("optimizer.accumulate_steps"))
    if rows and "optimizer.accumulate_steps" not in changes:
        return [("optimizer", "accumulate_steps")]
    return [("data", "device_batch_size")] if count and not rows else []


def to_toml(config: Config) -> str:
    """Return the configuration as TOML with every key; reading it back gives an equal configuration."""
    lines = []
    for section in fields(config):
        content = getattr(config, section.name)
        lines.append(f"[{section.name}]")
        lines += [f"{declared.name} = {to_toml_value(getattr(content, declared.name))}" for declared in fields(content)]
        lines.append("")
    return "\n".join(lines)


def _read(name_or_path: str) -> str:
    if not name_or_path.endswith(".toml"):
        if name_or_path not in preset_names():
            unknown = unknown_name("preset", name_or_path, preset_names())
            presets = f"presets: {', '.join(preset_names())}; " if unknown.endswith("?") else ""
            raise ConfigError(f"{unknown} ({presets}or give the path of a .toml file)")
        return (importlib.resources.files(_PRESETS) / f"{name_or_path}.toml").read_text(encoding="utf-8")
    try:
        return Path(name_or_path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"{name_or_path}: cannot be read ({reason}); give a .toml file or one of the presets: "
            f"{', '.join(preset_names())}"
        ) from None


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        values = _load_toml(text)
    except ValueError as error:
        raise ConfigError(f"{source}: {_toml_reason(str(error), text)}") from None
    if not text.strip():
        raise ConfigError(
            f"{source}: empty; write the keys that differ from the defaults, or give the name of a preset"
        )
    return {name: dict(content) if isinstance(content, Mapping) else content for name, content in values.items()}


def _load_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML text. Raises ValueError for all that cannot be read."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("lists are nested too deeply") from None


def _toml_reason(error: str, text: str) -> str:
    """Return what is wrong with a TOML text, and the way out; `error` is tomllib's message, which ends in a place."""
    number = re.search(r"line (\d+)", error)
    if number is None or not re.search(r"overwrite|twice|mutate", error):
        return f"not valid TOML: {error}; correct the file"
    line = text.splitlines()[int(number[1]) - 1].strip()
    return f"not valid TOML: line {number[1]} states again what stands above it: {line}; keep only one of the two"


def _parse_overrides(overrides: Iterable[str]) -> tuple[list[tuple[str, str, Any]], list[Fault]]:
    """Return (section, key, value) of each `section.key=value`, and the faults of those of another form."""
    changes, faults = [], []
    for text in overrides:
        target, equals, value = text.partition("=")
        section, dot, name = target.strip().partition(".")
        if not (equals and dot and section and name):
            faults.append(_no_override(text, target.strip()))
            continue
        try:
            changes.append((section, name, _parse_value(value.strip(), f"{section}.{name}")))
        except ValueError:
            rule = f"{value.strip()!r} is not a TOML value; write a number as 0.1, a list as [1, 2]"
            faults.append(fault(f"--set {text}: {rule}", f"{section}.{name}"))
    return changes, faults


def _no_override(text: str, target: str) -> Fault:
    """Return the fault of an override that is not `section.key=value`, and what it may have meant."""
    form = "must be section.key=value"
    if target in dotted_keys():
        return fault(f"--set {text}: {form}, and the value is missing", target)
    meant = without_section(target, dotted_keys())
    if meant is None:
        return fault(f"--set {text}: {form}, as in --set train.epochs=10")
    is_key = any(name in dotted_keys() for name in meant.targets)
    return fault(f"--set {text}: {form if is_key else 'is no key'}; {meant}", *meant.targets)


def _parse_value(text: str, key: str) -> Any:
    """Return a TOML value; a key that takes strings also takes a word without quotes. Raises ValueError."""
    try:
        values = _load_toml(f"value = {text}")
        if len(values) > 1:
            raise ValueError("more than one value")
        return values["value"]
    except ValueError:
        if dotted_keys().get(key) in _NUMERIC:
            raise
        return text


def to_toml_value(value: Any) -> str:
    """Return a string, truth value, number or flat list of these as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(to_toml_value(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids a bare DEL
    return repr(value)
