"""The file history.jsonl of a RUN: each change of its settings since it began, in order, with the step that it follows.

Changes of keys of the plan count in place of the plan's values; the others are for the reader.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convnext_imagenet.base.files import naming

EPOCHS = "config.train.epochs"
_WORDS = {
    "records": "records (SHA-256 of manifest.json)",
    "records.manifest_sha256": "records (SHA-256 of manifest.json)",
    "start": "initial weights (SHA-256)",
    "start.weights": "initial weights (SHA-256)",
    "start.state": "initial state of the optimizer (SHA-256)",
}


def shown_key(key: str) -> str:
    """Return a key of the plan in the user's words: a key of the configuration as it stands in CONFIG and --set."""
    return _WORDS.get(key, key.removeprefix("config."))


@dataclass(frozen=True)
class Change:
    """A key of the plan or the configuration that changed when the run was resumed after `step` optimizer steps."""

    key: str
    was: Any
    now: Any
    step: int
    in_plan: bool

    def __str__(self) -> str:
        return f"{shown_key(self.key)} {json.dumps(self.was)} -> {json.dumps(self.now)}"


def read_history(path: Path) -> list[Change]:
    """Return the changes in order; none if there is no file. A line that a crash cut short does not count."""
    if not path.exists():
        return []
    changes = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            changes += [Change(**change, step=line["step"]) for change in line["changes"]]
        except (ValueError, KeyError, TypeError):
            break
    return changes


def append_history(path: Path, changes: Sequence[Change], step: int) -> None:
    """Append one line for the changes, which all follow `step`, and force it to disk. Raises OSError with the path."""
    kept = [{name: value for name, value in asdict(change).items() if name != "step"} for change in changes]
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "step": step, "changes": kept}
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def in_force(changes: Iterable[Change]) -> dict[str, Any]:
    """Return the last value of each key of the plan that has changed."""
    return {change.key: change.now for change in changes if change.in_plan}


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> list[Change]:
    """Return the changes between two configurations, given by dotted keys, that are not in the plan."""
    return [
        Change(f"config.{key}", before[key], value, step, in_plan=False)
        for key, value in now.items()
        if key in before and before[key] != value
    ]
