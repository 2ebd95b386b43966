"""What a prediction job would write and how long it would take, from its first parts; keeps nothing."""

import dataclasses
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.html import plural
from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.predict.part_writer import PartWriter, plan_predictions
from convnext_imagenet.serve.predict.place import open_place
from convnext_imagenet.serve.predict.schema import part_file
from convnext_imagenet.serve.settings import PredictOptions

_SAMPLE = 200  # inputs to score, at least, after the first part, which compiles the network


@dataclass(frozen=True)
class PredictForecast:
    """What a job would do: inputs, parts, bytes of the parts, seconds; `statuses` are those of the `sampled` inputs."""

    inputs: int
    parts: int
    bytes: int
    start_s: float
    seconds: float
    sampled: int
    statuses: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values."""
        return dataclasses.asdict(self)


def forecast_predictions(
    checkpoint: Checkpoint, inputs: Inputs, options: PredictOptions, begin: float
) -> PredictForecast:
    """Return what a job over `inputs` would do; its first parts are scored into a temporary folder.

    `begin` is the time (`time.monotonic`) at which this process began. Raises ServeError as a job does.
    """
    plan = plan_predictions(checkpoint, inputs, options)
    with tempfile.TemporaryDirectory(prefix="convnext-forecast-") as name:
        out = Path(name)
        (out / "staging").mkdir()
        writer = PartWriter(checkpoint, inputs, open_place(out), options, plan, "")
        writer.write([0], out / "staging", lambda count: None)
        first = time.monotonic()
        others = _next_parts(writer.parts)
        writer.write(others, out / "staging", lambda count: None)
        seconds = time.monotonic() - first
        rows = sum(len(writer.parts[index]) for index in others)
        sampled = len(writer.parts[0]) + rows
        files = [out / part_file(index) for index in (0, *others)]
        statuses = Counter(status for file in files for status in read_table(file, ["status"])["status"].to_pylist())
        size = sum(file.stat().st_size for file in files)
    left = inputs.count - len(writer.parts[0])
    start_s = first - begin
    return PredictForecast(
        inputs=inputs.count,
        parts=len(writer.parts),
        bytes=round(size * inputs.count / sampled),
        start_s=start_s,
        seconds=start_s + (left * seconds / rows if rows else 0.0),
        sampled=sampled,
        statuses=dict(statuses),
    )


def forecast_lines(found: PredictForecast) -> list[str]:
    """Return a forecast as lines of text."""
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(found.statuses.items()))
    minutes = f"{found.seconds / 60:,.1f} minutes" if found.seconds >= 120 else f"{found.seconds:.0f} s"
    return [
        f"would write {plural(found.inputs, 'row')} in {plural(found.parts, 'part')}, about "
        f"{found.bytes / 2**20:,.1f} MiB",
        f"would take about {minutes} on one device, of which {found.start_s:.0f} s to start and compile; the first "
        f"{found.sampled:,} inputs: {counts}",
        "nothing was written",
    ]


def _next_parts(parts: list[range]) -> list[int]:
    """Return the parts after the first that together hold the sample."""
    chosen: list[int] = []
    for index in range(1, len(parts)):
        if sum(len(parts[one]) for one in chosen) >= _SAMPLE:
            break
        chosen.append(index)
    return chosen
