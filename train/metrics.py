"""metrics.jsonl: one JSON object per finished epoch, and no epoch twice after a resume."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convnext_imagenet.records.files import write_atomically


def append_metrics(path: Path, line: Mapping[str, Any]) -> None:
    """Add one epoch's line and force it to disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines that were written whole, in order; none when there is no file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # a line that a crash cut short; what follows it does not count either
    return lines


def truncate_metrics(path: Path, last_epoch: int) -> None:
    """Drop the lines of epochs after `last_epoch`, which a resumed run is going to write again."""
    kept = [line for line in read_metrics(path) if line["epoch"] <= last_epoch]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
