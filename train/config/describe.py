"""A configuration for reading: every key with its default, rule and source, and the presets as a table.

Headers of presets are comments of fixed form: `# Hours:` and `# Accuracy:` begin the text that the table shortens.
"""

import importlib.resources
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Literal, get_args, get_origin

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.rules import rule_of
from convnext_imagenet.train.config.source import load_config, preset_names, stated_values, to_toml_value

_PRESETS = "convnext_imagenet.train.presets"
_DEFAULT, _OVERRIDE = "default", "--set"


@dataclass(frozen=True)
class PresetEntry:
    """A row of the table of presets; hours and top-1 (a fraction) are None where nobody has measured them.

    `top1_of` says whose accuracy it is: "" for ours, else that of the paper's weights or of the MindSpore example.
    """

    name: str
    network: str
    size_px: int
    epochs: int
    hours: float | None
    top1: float | None
    top1_of: str
    about: str


def preset_table() -> list[PresetEntry]:
    """Return the presets of the package, by name."""
    return [_entry(name) for name in preset_names()]


def preset_lines(entries: Iterable[PresetEntry]) -> list[str]:
    """Return the table as lines of text."""
    rows = [("preset", "network", "px", "epochs", "hours", "top-1")]
    for entry in entries:
        hours = "-" if entry.hours is None else f"{entry.hours:.2f}"
        top1 = "-" if entry.top1 is None else f"{entry.top1:.1%}{f' ({entry.top1_of})' * bool(entry.top1_of)}"
        rows.append((entry.name, entry.network, str(entry.size_px), str(entry.epochs), hours, top1))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def described_toml(name_or_path: str, overrides: Iterable[str] = ()) -> str:
    """Return the configuration as TOML; the comment of each key has its default, its rule and its source.

    A preset keeps its first lines: what it is for, its accuracy and hours.

    Raises ConfigError as `load_config` does.
    """
    overrides = tuple(overrides)
    config = load_config(name_or_path, overrides)
    stated, with_overrides = stated_values(name_or_path), stated_values(name_or_path, overrides)
    lines = _head(name_or_path)
    for section in fields(config):
        lines.append(f"[{section.name}]")
        for declared in fields(getattr(config, section.name)):
            value = getattr(getattr(config, section.name), declared.name)
            before, after = (_stated(values, section.name, declared.name) for values in (stated, with_overrides))
            source = _DEFAULT if after is MISSING else name_or_path if after == before else _OVERRIDE
            text = f"{declared.name} = {to_toml_value(value)}"
            lines.append(f"{text:<36} # {_comment(declared, source)}")
        lines.append("")
    return "\n".join(lines)


def key_values() -> dict[str, tuple[str, ...]]:
    """Return for each `section.key` the values to try first: its words if it has some, or its default."""
    return {
        f"{section.name}.{declared.name}": get_args(declared.type)
        if get_origin(declared.type) is Literal
        else (to_toml_value(declared.default),)
        for section in fields(Config)
        for declared in fields(_kind(section))
    }


def key_rules() -> dict[str, str]:
    """Return the rule of each `section.key` in words."""
    return {
        f"{section.name}.{declared.name}": rule_of(declared).text
        for section in fields(Config)
        for declared in fields(_kind(section))
    }


def _kind(section: Field) -> Any:
    return section.type


def _stated(values: Mapping[str, Any], section: str, name: str) -> Any:
    content = values.get(section)
    return content.get(name, MISSING) if isinstance(content, Mapping) else MISSING


def _comment(declared: Field, source: str) -> str:
    default = "" if source == _DEFAULT else f"; default {to_toml_value(declared.default)}"
    return f"{source}{default}; {rule_of(declared).text}"


def _head(name: str) -> list[str]:
    """Return the first lines of a preset, which are comments, and an empty one; none for a file."""
    preset = importlib.resources.files(_PRESETS) / f"{name}.toml"
    if "/" in name or not preset.is_file():
        return []
    return [*itertools.takewhile(lambda line: line.startswith("#"), preset.read_text("utf-8").splitlines()), ""]


def _entry(name: str) -> PresetEntry:
    config = load_config(name)
    header = [line.removeprefix("#").strip() for line in _head(name)]
    top1, whose = _top1(_labelled(header, "Accuracy"))
    network = config.model.variant or "of the weights"
    if config.model.dims:
        network += " (other sizes)"
    hours = _hours(_labelled(header, "Hours"))
    return PresetEntry(name, network, config.data.size_px, config.train.epochs, hours, top1, whose, header[0])


def _labelled(header: list[str], label: str) -> str:
    """Return the text after `label:`, with its following lines."""
    start = next(number for number, line in enumerate(header) if line.startswith(f"{label}:"))
    lines = [header[start].removeprefix(f"{label}:")]
    for line in header[start + 1 :]:
        if re.match(r"[A-Z]\w+:", line):
            break
        lines.append(line)
    return " ".join(lines).strip()


def _hours(text: str) -> float | None:
    number = re.match(r"(\d+(?:\.\d+)?)( minutes)?", text)
    if number is None:
        return None
    return float(number[1]) / 60 if number[2] else float(number[1])


def _top1(text: str) -> tuple[float | None, str]:
    number = re.search(r"(\d+\.\d+) %", text)
    if number is None:
        return None, ""
    before = text[: number.start()]
    whose = "the paper's" if "paper" in before else "the example's" if "example" in before else ""
    return round(float(number[1]) / 100, 6), whose
