"""The tables of docs/json.md as data, and the comparison of a command's output with one of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PAGE = (Path(__file__).resolve().parent.parent / "docs" / "json.md").read_text()
_TYPES = {str: "string", bool: "bool", int: "int", float: "float", list: "list", dict: "object", type(None): "null"}
_SPLITS = dict.fromkeys(("rows", "images", "quarantined", "shards", "bytes"), "<split>")
_DIFFERENT = dict.fromkeys(("added", "removed", "relabelled", "changed"), "<split>")
_OPEN = {**_SPLITS, **_DIFFERENT, "statuses": "<status>", "flags": "<kind>"}  # objects whose keys are data


def documented(heading: str) -> dict[str, str]:
    """Return name and type of each key under a heading."""
    section = _PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \| .+ \|$", section, re.MULTILINE))


def check_object(text: str, heading: str) -> dict[str, Any]:
    """Return the object of a command's standard output, which must be one line with exactly the documented keys."""
    (line,) = text.splitlines()
    value, table = json.loads(line), documented(heading)
    found = dict(_leaves(value, table))
    assert found.keys() == table.keys()
    assert not {name: kind for name, kind in found.items() if kind not in table[name].split(" or ")}
    return value


def check_progress(text: str) -> dict[str, int]:
    """Return what the last line of each bar counts among the lines of standard error, which must have the keys."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert all(line.keys() == documented("Progress").keys() for line in lines)
    return {line["progress"]: line["done"] for line in lines if line["is_last"]}


def _leaves(value: Any, table: dict[str, str], path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and path not in table:
        for name, inner in value.items():
            shown = _OPEN.get(path, name)
            yield from _leaves(inner, table, f"{path}.{shown}".lstrip("."))
    else:
        yield path, _TYPES[type(value)]
