"""What a user chooses, as frozen values. Imports no MindSpore: a launcher reads them before it starts ranks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Weights = Literal["best", "raw", "ema"]
Precision = Literal["float32", "bfloat16", "auto"]


class InputOptions(NamedTuple):
    """What to choose in IMAGES: the split of RECORDS, columns of a table, globs for files and members of tars."""

    split: str = "val"
    column: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    label_column: str = ""


@dataclass(frozen=True)
class TransformOptions:
    """New values for fields of a checkpoint's evaluation transform; None keeps a field.

    `size_px` is the side of the crop, `crop_pct` in (0, 1], `mode` "crop" or "squash".
    """

    size_px: int | None = None
    crop_pct: float | None = None
    mode: str | None = None

    def changes(self) -> Mapping[str, Any]:
        """Return the fields by name, as `model.transform.changed` takes them."""
        return asdict(self)


class EngineChoice(NamedTuple):
    """What --engine chooses.

    `executor` is where parts are made, "local" or "ray"; `network` is what computes them, "mindspore" or "onnxruntime".
    """

    executor: str
    network: str


class ClusterOptions(NamedTuple):
    """The cluster's address, HOST:PORT or empty, and the resources that one network takes of a node: ("CPU=8", ...)."""

    address: str = ""
    per_actor: tuple[str, ...] = ()


class ErrorLimit(NamedTuple):
    """The most error rows that a job may have: a number of rows, or with `is_percentage` a share of all rows."""

    amount: float = 0
    is_percentage: bool = False

    def allows(self, errors: int, rows: int) -> bool:
        """Return whether `errors` of `rows` are few enough."""
        return errors <= (rows * self.amount / 100 if self.is_percentage else self.amount)

    def __str__(self) -> str:
        return f"{self.amount:g}%" if self.is_percentage else f"{self.amount:g}"


MOST_CHANGED = ErrorLimit(1, is_percentage=True)  # of the rows, by an export of lower precision


@dataclass(frozen=True)
class PredictOptions:
    """How inputs are scored. What is said to change no score is not part of the plan.

    `flip` averages over the image and its mirror image, `extras` are additional columns, such as "logits" or "loss".
    `calibration` is the report of an evaluation, `coverage` the share of sets that hold the true class. `engine` is
    "mindspore" or "onnxruntime". `exif` "apply" turns images as their EXIF orientation says. `max_pixels` is the size
    of the largest image to decode; None is the usual limit. `refuses_damage` gives JPEGs of which a part is lost an
    error row. `precision` is that of the products; "auto" is bfloat16 where the processor has it.

    These change no score: `workers` threads decode and `readers` threads read. An input that takes over `timeout_s`
    seconds to read, or to decode, becomes an error row. A failed read is tried again for `retry_s` seconds. After
    `stop_after` inputs in a row that cannot be read the job ends; 0 is never.
    """

    topk: int = 5
    part_rows: int = 4096
    batch_size: int = 32
    workers: int = 1
    readers: int = 64
    device_target: str = "CPU"
    flip: bool = False
    extras: tuple[str, ...] = ()
    timeout_s: float = 60.0
    retry_s: float = 60.0
    stop_after: int = 10
    calibration: Path | None = None
    coverage: float = 0.9
    refuses_damage: bool = True
    exif: Literal["ignore", "apply"] = "ignore"
    max_pixels: int | None = None
    engine: str = "mindspore"
    precision: Precision = "float32"
