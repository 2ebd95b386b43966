"""What a user chooses, as frozen values. Imports no MindSpore: a launcher reads them before it starts ranks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Weights = Literal["best", "raw", "ema"]


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


@dataclass(frozen=True)
class PredictOptions:
    """How inputs are scored. `workers` and `timeout_s` are not part of the plan, because they change no score.

    `flip` averages over the image and its mirror image, `extras` are additional columns: "features",
    "unit_features", "logits", "loss".
    An input that takes over `timeout_s` seconds to read and decode becomes an error row. `engine` is "mindspore" or
    "onnxruntime".
    """

    topk: int = 5
    part_rows: int = 4096
    batch_size: int = 32
    workers: int = 1
    device_target: str = "CPU"
    flip: bool = False
    extras: tuple[str, ...] = ()
    timeout_s: float = 60.0
    engine: str = "mindspore"
