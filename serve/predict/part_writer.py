"""Makes parts of PREDICTIONS one after another, with one network in one process.

A part is a fixed range of the inputs and depends on nothing outside it: its batches begin with its first input. This
file does not know which parts other processes make.
"""

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from convnext_imagenet.base import protocol
from convnext_imagenet.base.plan_changes import Difference
from convnext_imagenet.launch.executor import OnProgress
from convnext_imagenet.model.convnext import NETWORK_VERSION
from convnext_imagenet.model.kernels.build import kernels_library
from convnext_imagenet.model.transform import TRANSFORM_VERSION
from convnext_imagenet.records.image_headers import CHECKS_VERSION, USUAL_LIMITS, PixelLimits
from convnext_imagenet.serve.batching import batches
from convnext_imagenet.serve.calibration import Calibration, read_calibration
from convnext_imagenet.serve.checkpoint import Checkpoint
from convnext_imagenet.serve.engine import Engine, engine_facts, open_engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.inputs import Inputs, kept_columns
from convnext_imagenet.serve.predict.place import Place
from convnext_imagenet.serve.predict.reading import ReadWatch, RetryRule
from convnext_imagenet.serve.predict.retries import Retries, retry_of
from convnext_imagenet.serve.predict.schema import (
    CALIBRATED,
    ROWS_VERSION,
    kept_name,
    make_row,
    part_file,
    part_ranges,
    part_schema,
    part_unit,
    row_bytes,
    rows_table,
    write_part,
)
from convnext_imagenet.serve.prefetch import Stage, Stopped, Waits, run_ahead
from convnext_imagenet.serve.samples import (
    Decoding,
    Loaded,
    Sample,
    decode_sample,
    decode_timed_out,
    load_sample,
    load_timed_out,
)
from convnext_imagenet.serve.scoring import score_samples
from convnext_imagenet.serve.settings import PredictOptions

_MOST_PIXEL_BYTES = 128 << 20  # of images that are decoded and not yet scored
_MOST_BYTES_READ = 256 << 20  # of images that are read and not yet decoded
_MOST_PART_BYTES = 128 << 20  # of a part in memory; writing it takes several times as much
_LONGEST_SIDE_PX = 65_535
_NETWORK = "network"  # its name beside those of the stages
_FEATURES = {"features", "unit_features"}
# Packages that can change a byte of PREDICTIONS: the network, decoders, and the writer of Parquet.
_PACKAGES = ("mindspore", "numpy", "opencv-python-headless", "pillow", "pyarrow")


def plan_predictions(checkpoint: Checkpoint, inputs: Inputs, options: PredictOptions) -> dict[str, Any]:
    """Return the plan, all that decides the bytes of PREDICTIONS, as JSON; no times, hosts or folders.

    Batch size and device belong to it, because they move the last bits of a score: on the CPU, batches of 1 to 32
    moved ConvNeXt-atto's logits by 6e-7 of the largest. Raises what `engine_facts` raises, and ServeError for a
    network without a classifier if no features are asked for, and for kept columns of equal names.
    """
    card = checkpoint.card
    if not checkpoint.has_classifier and (not options.extras or set(options.extras) - _FEATURES):
        raise ServeError(
            f"{checkpoint.path}: has no trained classifier, so there are only features; pass --features or --normalize "
            f"and no --logits"
        )
    _refuse_equal_names(kept_columns(inputs).names)
    batch_size = min(options.batch_size, options.part_rows, inputs.count)
    topk = min(options.topk, len(card.classes))
    plan = {
        "model": {"sha256": checkpoint.sha256, "variant": card.config.variant},
        "transform": dataclasses.asdict(card.transform),
        "classes": {"count": len(card.classes), "sha256": checkpoint.classes_sha256},
        "inputs": {"count": inputs.count, "sha256": inputs.sha256},
        "topk": topk,
        "parts": {"first_rows": batch_size, "most_rows": _most_rows(checkpoint, options, topk, batch_size)},
        "batch_size": batch_size,
        "flip": options.flip,
        "extras": list(options.extras),
        "device_target": options.device_target,
        "engine": engine_facts(options.engine, card.config, options.device_target, options.precision),
        "rules": {
            "image_checks": CHECKS_VERSION,
            "network": NETWORK_VERSION,
            "rows": ROWS_VERSION,
            "transform": TRANSFORM_VERSION,
        },
        "versions": {name: version(name) for name in _PACKAGES},
    } | _chosen_options(options, kept_columns(inputs).names)
    if options.calibration is not None:
        _, sha256 = read_calibration(options.calibration, plan, options.coverage)
        plan["calibration"] = {"predictions": sha256, "coverage": options.coverage}
    return plan


def _refuse_equal_names(kept: Sequence[str]) -> None:
    """Raise ServeError when two kept columns get one name: few tools open a table of equal names."""
    counts = Counter(map(kept_name, kept))
    if equal := [name for name, count in counts.items() if count > 1]:
        raise ServeError(
            f"--keep: two columns would be named {equal[0]!r} in the predictions; leave one of them out, or rename it"
        )


def _chosen_options(options: PredictOptions, kept: Sequence[str]) -> dict[str, Any]:
    """Return the options that a plan names only where they are not the usual ones."""
    chosen = {"keep": list(kept), "exif": options.exif, "max_pixels": options.max_pixels}
    usual: dict[str, Any] = {"keep": [], "exif": PredictOptions.exif, "max_pixels": PredictOptions.max_pixels}
    return {name: value for name, value in chosen.items() if value != usual[name]}


def user_changes(changed: Sequence[Difference]) -> list[Difference]:
    """Return the differences of two plans without those that follow from others.

    The first part holds one batch, a batch holds no more than all inputs, and wide rows make parts of fewer rows.
    """
    found = {difference.key: difference for difference in changed}
    derived = {"parts.first_rows"} if "batch_size" in found else set()
    size, count = found.get("batch_size"), found.get("inputs.count")
    if size and count and (size.stored == count.stored or size.wanted == count.wanted):
        derived.add("batch_size")
    if found.keys() & {"topk", "extras", "classes.count"}:
        derived.add("parts.most_rows")
    return [difference for difference in changed if difference.key not in derived]


def _most_rows(checkpoint: Checkpoint, options: PredictOptions, topk: int, batch_size: int) -> int:
    """Return the rows of a part: as asked for, and fewer whole batches if these would take too much memory."""
    config = checkpoint.card.config
    sizes = {"features": config.dims[-1], "logits": len(checkpoint.card.classes)}
    rows = _MOST_PART_BYTES // row_bytes(topk, sum(sizes.get(name, 1) for name in options.extras))
    return options.part_rows if options.part_rows <= rows else max(1, rows // batch_size) * batch_size


@dataclass(frozen=True)
class PartWriter:
    """One network over the inputs of a planned PREDICTIONS directory; `retries` are those begun there."""

    checkpoint: Checkpoint
    inputs: Inputs
    out: Place
    options: PredictOptions
    plan: dict[str, Any]
    plan_id: str
    retries: Retries = dataclasses.field(default_factory=list)

    @cached_property
    def parts(self) -> list[range]:
        """Return the numbers of the inputs of each part."""
        return part_ranges(self.inputs.count, **self.plan["parts"])

    def receipts(self, indices: Sequence[int]) -> list[Any]:
        """Return the receipt of each part whose file is whole and whose last retry has made it, else None."""
        found = self.out.receipts([part_unit(index) for index in indices], self.plan_id)
        return [
            receipt if receipt and receipt["facts"].get("retry", 0) == retry_of(self.retries, index) else None
            for index, receipt in zip(indices, found, strict=True)
        ]

    def write(
        self,
        indices: Sequence[int],
        staging: Path,
        on_progress: OnProgress,
        is_stopped: Callable[[], bool] = lambda: False,
        on_slowest: Callable[[str], None] = lambda stage: None,
    ) -> bool:
        """Score the parts `indices` in order and publish each from the folder `staging`; return False when stopped.

        The network is built once; later parts are decoded while earlier ones are scored. `is_stopped` is asked before
        each batch and while one is waited for. `on_slowest` gets what most of the time goes to: "read", "decode" or
        "network". Raises ServeError when the network returns NaN or infinity, FailedError when the inputs cannot be
        read any more.
        """
        kernels_library()  # compiled here on a new machine, and not within the time limit of the first images
        watch, waits = ReadWatch(self.options.stop_after, partial(self._is_readable, is_stopped)), Waits()
        try:
            with contextlib.closing(self._samples(indices, is_stopped, waits)) as samples:
                for index in indices:
                    tables = []
                    for batch in batches(islice(samples, len(self.parts[index])), self.plan["batch_size"]):
                        if is_stopped():
                            return False
                        watch.see(batch)
                        began = time.monotonic()
                        tables.append(rows_table(self._rows(batch), self._schema))
                        waits.seconds[_NETWORK] += time.monotonic() - began
                        on_slowest(waits.slowest)
                        on_progress(len(batch))
                    watch.confirm()
                    self._publish(index, tables, staging)
        except Stopped:
            return False
        return True

    @cached_property
    def _schema(self) -> pa.Schema:
        extras = (*self.options.extras, *(CALIBRATED if self._calibration else ()))
        return part_schema(extras, kept_columns(self.inputs), self.checkpoint.has_classifier)

    @cached_property
    def _calibration(self) -> Calibration | None:
        report, coverage = self.options.calibration, self.options.coverage
        return None if report is None else read_calibration(report, self.plan, coverage)[0]

    @cached_property
    def _engine(self) -> Engine:
        precision = self.plan["engine"].get("precision", "float32")  # what "auto" meant where the plan was made
        return open_engine(self.options.engine, self.checkpoint, bool(_FEATURES & set(self.options.extras)), precision)

    def _samples(
        self, indices: Sequence[int], is_stopped: Callable[[], bool], waits: Waits
    ) -> Generator[Sample, None, None]:
        """Yield the inputs of the parts as samples, in order, read and decoded ahead of the network."""
        ranges = _joined_ranges([self.parts[index] for index in indices])
        numbered = (pair for numbers in ranges for pair in zip(numbers, self.inputs.items(numbers), strict=True))
        transform, batch_size, options = self.checkpoint.card.transform, self.plan["batch_size"], self.options
        decoding = Decoding(
            _limits(options.max_pixels), options.exif == "apply", options.timeout_s, options.refuses_damage
        )
        decode = Stage(
            "decode",
            lambda loaded: decode_sample(loaded, transform, decoding),
            options.workers,
            options.timeout_s,
            lambda loaded: decode_timed_out(loaded, options.timeout_s),
        )
        read = self._reading(RetryRule(options.retry_s))
        ahead = _inputs_ahead(options.readers, batch_size, transform.size_px)
        return run_ahead([read, decode], numbered, ahead, _MOST_BYTES_READ, is_stopped, waits)

    def _reading(self, rule: RetryRule) -> Stage:
        limit_s = self.options.timeout_s
        return Stage(
            "read",
            lambda pair: load_sample(pair[1], pair[0]),
            self.options.readers,
            limit_s,
            lambda pair: load_timed_out(pair[1], pair[0], limit_s),
            rule.pause,
            lambda loaded: len(loaded.data),
        )

    def _is_readable(self, is_stopped: Callable[[], bool], number: int) -> bool:
        """Return whether an input can be read now. Raises Stopped."""
        items = enumerate(self.inputs.items(range(number, number + 1)), number)
        loaded: Loaded
        with contextlib.closing(run_ahead([self._reading(RetryRule(0))], items, 1, is_stopped=is_stopped)) as results:
            (loaded,) = results
        return loaded.error is None and loaded.status != "timeout"

    def _rows(self, batch: Sequence[Sample]) -> list[dict[str, Any]]:
        classes, plan = self.checkpoint.card.classes, self.plan
        scored = score_samples(
            self._engine, batch, classes, plan["topk"], plan["batch_size"], self.options.flip, self.options.extras,
            self._calibration,
        )  # fmt: skip
        return [make_row(*pair) for pair in zip(batch, scored, strict=True)]

    def _publish(self, index: int, tables: Sequence[pa.Table], staging: Path) -> None:
        path = staging / f"{part_file(index)}{protocol.STAGED}"
        write_part(path, tables, self.plan)
        statuses = Counter(status for table in tables for status in table["status"].to_pylist())
        facts = {"first": self.parts[index].start, "rows": sum(map(len, tables)), "statuses": statuses}
        if retry := retry_of(self.retries, index):
            facts["retry"] = retry
        self.out.publish(path, part_unit(index), self.plan_id, facts)


def _inputs_ahead(readers: int, batch_size: int, size_px: int) -> int:
    """Return how many inputs may be under way: two rounds of the readers and two batches, less if they are large.

    Answers of a store come unevenly, and in rounds. With one round, readers wait for the slowest answer and for the
    network (DECISIONS, 2026-11-29).
    """
    fitting = _MOST_PIXEL_BYTES // (3 * size_px**2)
    return max(2 * batch_size, min(2 * (readers + batch_size), fitting))


def _limits(max_pixels: int | None) -> PixelLimits:
    """Return the limits for an image; a side may be as long as the JPEG format allows if they are the user's."""
    return PixelLimits(max_pixels, _LONGEST_SIDE_PX) if max_pixels else USUAL_LIMITS


def _joined_ranges(ranges: Sequence[range]) -> list[range]:
    """Return the same numbers in as few ranges as possible: each range opens its table or tar once."""
    joined: list[range] = []
    for numbers in ranges:
        if joined and joined[-1].stop == numbers.start:
            joined[-1] = range(joined[-1].start, numbers.stop)
        else:
            joined.append(numbers)
    return joined
