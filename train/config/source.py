"""Reads configurations from TOML (a preset's name or a path, then `--set` overrides) and writes them back as TOML.

It writes only the types that `config.py` has: strings, booleans, whole numbers, fractions and flat lists.
"""

import importlib.resources
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from convnext_imagenet.train.config.config import Config, config_from_mapping, dotted_keys, unknown_name
from convnext_imagenet.train.errors import ConfigError

_NUMERIC = (bool, int, float, tuple[int, ...], tuple[float, ...])
_PRESETS = "convnext_imagenet.train.presets"


def preset_names() -> list[str]:
    """Return the names of the presets in the package, sorted."""
    files = importlib.resources.files(_PRESETS).iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_config(name_or_path: str, overrides: Iterable[str] = ()) -> Config:
    """Return a preset, or the configuration in a `.toml` file, with `section.key=value` overrides applied.

    `data.device_batch_size` and `optimizer.accumulate_steps` both state the micro-batches, so an override of one of
    them also replaces the other one of the file. An `accumulate_steps` of 0 states nothing.

    Raises ConfigError for an unknown preset, an unreadable file, bad TOML, and whatever `config.py` refuses.
    """
    return config_from_mapping(stated_values(name_or_path, overrides))


def stated_values(name_or_path: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return the sections of keys that a preset or file and the overrides state, without defaults and unchecked.

    Raises ConfigError for an unknown preset, an unreadable file, bad TOML and overrides of another form.
    """
    values = _parse(_read(name_or_path), name_or_path)
    changes = [_parse_override(override) for override in overrides]
    for section, name in _replaced({f"{section}.{name}": value for section, name, value in changes}):
        if isinstance(values.get(section), dict):
            values[section].pop(name, None)
    for section, name, value in changes:
        values[section] = {**values.get(section, {}), name: value}
    return values


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
        lines += [f"{declared.name} = {_toml_value(getattr(content, declared.name))}" for declared in fields(content)]
        lines.append("")
    return "\n".join(lines)


def _read(name_or_path: str) -> str:
    if not name_or_path.endswith(".toml"):
        if name_or_path not in preset_names():
            raise ConfigError(
                f"{unknown_name('preset', name_or_path, preset_names())} "
                f"(presets: {', '.join(preset_names())}; or give the path of a .toml file)"
            )
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
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}; correct the file") from None
    return {name: dict(content) if isinstance(content, Mapping) else content for name, content in values.items()}


def _parse_override(text: str) -> tuple[str, str, Any]:
    """Split `section.key=value`. The value is TOML; a string key also takes a word without quotes."""
    target, equals, value = text.partition("=")
    section, dot, name = target.strip().partition(".")
    if not (equals and dot and section and name):
        raise ConfigError(f"--set {text}: must be section.key=value, as in --set train.epochs=10")
    kind = dotted_keys().get(f"{section}.{name}")
    try:
        return section, name, tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        if kind in _NUMERIC:
            raise ConfigError(
                f"--set {text}: {value.strip()!r} is not a TOML value; write a number as 0.1, a list as [1, 2]"
            ) from None
        return section, name, value.strip()


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids a bare DEL
    return repr(value)
