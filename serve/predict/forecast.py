"""What a prediction job would write and how long it would take, from its first parts; keeps nothing."""

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.parquet import read_table
from convnext_imagenet.base.wording import duration, plural
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.predict.part_writer import PartWriter, plan_predictions
from convnext_imagenet.serve.predict.place import open_place
from convnext_imagenet.serve.predict.schema import part_file
from convnext_imagenet.serve.settings import PredictOptions

_SAMPLE = 200  # inputs to score, at least, after the first part, which compiles the network
_SECONDS = 3.0  # to score for, at least, if there are so many


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
        rows, seconds, parts = _score_sample(writer, out / "staging")
        files = [out / part_file(index) for index in range(parts)]
        statuses = Counter(status for file in files for status in read_table(file, ["status"])["status"].to_pylist())
        sizes = [file.stat().st_size for file in files]
    held = [len(part) for part in writer.parts]
    start_s = first - begin
    return PredictForecast(
        inputs=inputs.count,
        parts=len(held),
        bytes=expected_bytes(held[:parts], sizes, inputs.count, len(held)),
        start_s=start_s,
        seconds=start_s + ((inputs.count - held[0]) * seconds / rows if rows else 0.0),
        sampled=held[0] + rows,
        statuses=dict(statuses),
    )


def _score_sample(writer: PartWriter, staging: Path) -> tuple[int, float, int]:
    """Score parts after the first; return their rows, the seconds, and how many parts there are now with the first.

    They are at least a sample, and take a few seconds: in the first half second a fast network scored 870 images a
    second, and then 620.
    """
    done, rows, seconds, wanted = 1, 0, 0.0, _SAMPLE
    while done < len(writer.parts) and seconds < _SECONDS:
        chosen = _next_parts(writer.parts, done, wanted)
        begin = time.monotonic()
        writer.write(chosen, staging, lambda count: None)
        seconds += time.monotonic() - begin
        rows += sum(len(writer.parts[index]) for index in chosen)
        done, wanted = chosen.stop, round(rows / max(seconds, 1e-9) * _SECONDS)
    return rows, seconds, done


def expected_bytes(rows: Sequence[int], sizes: Sequence[int], all_rows: int, all_parts: int) -> int:
    """Return the bytes of `all_parts` files with `all_rows` in all, from files of `rows` that have `sizes`.

    A file has bytes of its own, which in a small one are more than those of its rows.
    """
    most, least = rows.index(max(rows)), rows.index(min(rows))
    if rows[most] == rows[least]:
        return round(sum(sizes) * all_rows / sum(rows))
    of_row = max(0.0, (sizes[most] - sizes[least]) / (rows[most] - rows[least]))
    of_file = max(0.0, sizes[least] - of_row * rows[least])
    return round(of_file * all_parts + of_row * all_rows)


def forecast_lines(found: PredictForecast) -> list[str]:
    """Return a forecast as lines of text."""
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(found.statuses.items()))
    return [
        f"would write {plural(found.inputs, 'row')} in {plural(found.parts, 'part')}, about "
        f"{found.bytes / 2**20:,.1f} MiB",
        f"would take about {duration(found.seconds)} on one device, of which {found.start_s:.0f} s to start and "
        f"compile; the first {found.sampled:,} inputs: {counts}",
        "nothing was written",
    ]


def _next_parts(parts: Sequence[range], start: int, wanted: int) -> range:
    """Return the numbers of the parts from `start` that together hold `wanted` rows, or of all that are left."""
    stop, held = start, 0
    while stop < len(parts) and held < wanted:
        held += len(parts[stop])
        stop += 1
    return range(start, stop)
