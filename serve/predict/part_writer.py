"""Makes parts of PREDICTIONS one after another, with one network in one process.

A part is a fixed range of the inputs and depends on nothing outside it: its batches begin with its first input. This
file does not know which parts other processes make.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from convnext_imagenet.base import protocol
from convnext_imagenet.launch.executor import OnProgress
from convnext_imagenet.model.convnext import NETWORK_VERSION
from convnext_imagenet.model.transform import TRANSFORM_VERSION
from convnext_imagenet.records.images import CHECKS_VERSION
from convnext_imagenet.serve.batching import batches
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.engine import Engine, engine_facts, open_engine
from convnext_imagenet.serve.inputs.inputs import Inputs
from convnext_imagenet.serve.predict.schema import ROWS_VERSION, make_row, part_file, part_ranges, part_unit, write_part
from convnext_imagenet.serve.prefetch import map_ahead
from convnext_imagenet.serve.samples import Sample, read_sample, timed_out
from convnext_imagenet.serve.scoring import score_samples
from convnext_imagenet.serve.settings import PredictOptions

_BATCHES_AHEAD = 2  # one waits ready while the threads decode the next
# Packages that can change a byte of PREDICTIONS: the network, decoders, and the writer of Parquet.
_PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "pillow", "pyarrow")


def plan_predictions(checkpoint: Checkpoint, inputs: Inputs, options: PredictOptions) -> dict[str, Any]:
    """Return the plan, all that decides the bytes of PREDICTIONS, as JSON; no times, hosts or folders.

    Batch size and device belong to it, because they move the last bits of a score: on the CPU, batches of 1 to 32
    moved ConvNeXt-atto's logits by 6e-7 of the largest. Raises what `engine_facts` raises.
    """
    card = checkpoint.card
    batch_size = min(options.batch_size, options.part_rows, inputs.count)
    return {
        "model": {"sha256": checkpoint.sha256, "variant": card.config.variant},
        "transform": dataclasses.asdict(card.transform),
        "classes": {"count": len(card.classes), "sha256": checkpoint.classes_sha256},
        "inputs": {"count": inputs.count, "sha256": inputs.sha256},
        "topk": min(options.topk, len(card.classes)),
        "parts": {"first_rows": batch_size, "most_rows": options.part_rows},
        "batch_size": batch_size,
        "flip": options.flip,
        "extras": list(options.extras),
        "device_target": options.device_target,
        "engine": engine_facts(options.engine, options.device_target, options.precision),
        "rules": {
            "image_checks": CHECKS_VERSION,
            "network": NETWORK_VERSION,
            "rows": ROWS_VERSION,
            "transform": TRANSFORM_VERSION,
        },
        "versions": {name: version(name) for name in _PACKAGES},
    }


@dataclass(frozen=True)
class PartWriter:
    """One network over the inputs of a planned PREDICTIONS directory."""

    checkpoint: Checkpoint
    inputs: Inputs
    out: Path
    options: PredictOptions
    plan: dict[str, Any]
    plan_id: str

    @cached_property
    def parts(self) -> list[range]:
        """Return the numbers of the inputs of each part."""
        return part_ranges(self.inputs.count, **self.plan["parts"])

    def receipt(self, index: int) -> Any:
        """Return the receipt of a part whose file is whole, or None."""
        return protocol.read_receipt(self.out, part_unit(index), self.plan_id, deep=True)

    def write(
        self,
        indices: Sequence[int],
        staging: Path,
        on_progress: OnProgress,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Score the parts `indices` in order and publish each from the folder `staging`; return False when stopped.

        The network is built once; later parts are decoded while earlier ones are scored. `is_stopped` is asked before
        each batch. Raises ServeError when the network returns NaN or infinity.
        """
        with contextlib.closing(self._samples(indices)) as samples:
            for index in indices:
                rows: list[dict[str, Any]] = []
                for batch in batches(islice(samples, len(self.parts[index])), self.plan["batch_size"]):
                    if is_stopped():
                        return False
                    rows += self._rows(batch)
                    on_progress(len(batch))
                self._publish(index, rows, staging)
        return True

    @cached_property
    def _engine(self) -> Engine:
        precision = self.plan["engine"].get("precision", "float32")  # what "auto" meant where the plan was made
        return open_engine(self.options.engine, self.checkpoint, "features" in self.options.extras, precision)

    def _samples(self, indices: Sequence[int]) -> Generator[Sample, None, None]:
        """Yield the inputs of the parts as samples, in order, read and decoded ahead of the network."""
        ranges = _joined_ranges([self.parts[index] for index in indices])
        numbered = (pair for numbers in ranges for pair in zip(numbers, self.inputs.items(numbers), strict=True))
        timeout_s, transform = self.options.timeout_s, self.checkpoint.card.transform
        return map_ahead(
            lambda pair: read_sample(pair[1], pair[0], transform),
            numbered,
            self.options.workers,
            _BATCHES_AHEAD * self.plan["batch_size"],
            timeout_s,
            lambda pair: timed_out(pair[1], pair[0], timeout_s),
        )

    def _rows(self, batch: Sequence[Sample]) -> list[dict[str, Any]]:
        classes, plan = self.checkpoint.card.classes, self.plan
        scored = score_samples(
            self._engine, batch, classes, plan["topk"], plan["batch_size"], self.options.flip, self.options.extras
        )
        return [make_row(*pair) for pair in zip(batch, scored, strict=True)]

    def _publish(self, index: int, rows: list[dict[str, Any]], staging: Path) -> None:
        path = staging / f"{part_file(index)}{protocol.STAGED}"
        write_part(path, rows, self.plan, self.options.extras)
        statuses = Counter(row["status"] for row in rows)
        facts = {"first": self.parts[index].start, "rows": len(rows), "statuses": statuses}
        protocol.publish([path], self.out, part_unit(index), self.plan_id, facts)


def _joined_ranges(ranges: Sequence[range]) -> list[range]:
    """Return the same numbers in as few ranges as possible: each range opens its table or tar once."""
    joined: list[range] = []
    for numbers in ranges:
        if joined and joined[-1].stop == numbers.start:
            joined[-1] = range(joined[-1].start, numbers.stop)
        else:
            joined.append(numbers)
    return joined
