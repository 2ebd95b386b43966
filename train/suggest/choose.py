"""Chooses a configuration from what records hold and from the speed of a machine. Pure: reads nothing, runs nothing.

The recipes are those of the presets `small` and `small-finetune`; here are only the choices that depend on the data.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from convnext_imagenet.train.errors import ConfigError

_SIDE_STEP, _MOST_SIDE = 32, 224
_SIDE_OF_FEW, _SIDE_OF_MANY = 64, 128  # from random weights; larger costs the square and gives little in minutes
_BATCH, _LARGE_BATCH, _LARGE_ROWS = 32, 64, 20_000  # `small` is for 32 rows; longer epochs allow larger steps
_FEW_ROWS = 10_000  # `small` has five blocks; from here on all of ConvNeXt-atto
_FINETUNE_RATE, _SCRATCH_RATE = 5e-4, 8e-4  # of the presets, for 32 rows
# Without weights (False) and with them (True): the images that the presets' epochs show on the set they were made on.
_SEEN_IMAGES = {False: 50 * 1040, True: 10 * 1040}
_LEAST_EPOCHS, _MOST_EPOCHS = {False: 20, True: 5}, {False: 300, True: 50}
_WARMUP_SHARE = 0.08
_UNEVEN = 10.0  # rows of the largest class to those of the smallest, from which on classes are drawn more evenly
_EVALUATIONS = 10
_MOST_TIMED_EPOCHS = 1000  # with --minutes


@dataclass(frozen=True)
class DataFacts:
    """What records hold: counts of classes and rows, the largest and smallest class, the median of the shorter side."""

    classes: int
    train_rows: int
    val_rows: int
    most_rows: int
    least_rows: int
    side_px: int


@dataclass(frozen=True)
class WeightFacts:
    """Given weights: the network in words, and the size in pixels that they are evaluated at."""

    network: str
    size_px: int


@dataclass(frozen=True)
class Speed:
    """How long a run's parts take with one configuration, in seconds; a row of val is evaluated in `eval_row_s`."""

    start_s: float
    compile_s: float
    step_s: float
    eval_row_s: float


@dataclass(frozen=True)
class Choice:
    """A preset, the keys that replace its values, and the reason for each key or other choice, in order."""

    preset: str
    values: dict[str, Any]
    reasons: list[tuple[str, str]] = field(default_factory=list)


def choose(data: DataFacts, weights: WeightFacts | None, epochs: int | None = None) -> Choice:
    """Return the configuration for the data, with `epochs` epochs or as many as the recipe needs.

    Raises ConfigError for data that no run can use: fewer than two classes or rows.
    """
    if data.classes < 2:
        raise ConfigError(f"the records hold {data.classes} class, and training needs at least 2; add another class")
    if data.train_rows < 2:
        raise ConfigError(f"the records hold {data.train_rows} training rows; add images")
    has_weights = weights is not None
    batch = _batch(data.train_rows)
    size, size_reason = _size(data, weights)
    most = "the most that is tried" if epochs == _MOST_TIMED_EPOCHS else "as many as the minutes allow"
    epochs, epochs_reason = (epochs, most) if epochs else _epochs(data, has_weights)
    rate = (_FINETUNE_RATE if has_weights else _SCRATCH_RATE) * math.sqrt(batch / _BATCH)
    warmup = round(max(1.0, _WARMUP_SHARE * epochs) if epochs > 1 else 0.0, 1)
    values: dict[str, Any] = {
        "data.size_px": size,
        "data.global_batch_size": batch,
        "schedule.base_lr": float(f"{rate:.2g}"),
        "schedule.warmup_epochs": min(warmup, epochs / 2),
        **_epoch_values(epochs),
    }
    reasons = [
        ("weights", f"{weights.network}: the network and its evaluation come from them")
        if weights is not None
        else ("weights", "none given: a small network from random weights; with trained ones it would be better"),
        ("data.size_px", size_reason),
        ("data.global_batch_size", f"for {data.train_rows:,} training images"),
        ("schedule.base_lr", f"the recipe's rate for {_BATCH} rows, times the square root of {batch} / {_BATCH}"),
        ("train.epochs", epochs_reason),
    ]
    if not has_weights:
        network, reason = _network(data.train_rows)
        values |= network
        reasons.append(("model.depths", reason))
    if data.most_rows >= _UNEVEN * max(1, data.least_rows):
        values["data.balance_power"] = 0.5
        counts = f"{data.least_rows:,} to {data.most_rows:,} images a class"
        reasons.append(("data.balance_power", f"{counts}: rare classes are drawn more often"))
    return Choice("small-finetune" if has_weights else "small", values, reasons)


def steps_of(data: DataFacts, values: dict[str, Any]) -> int:
    """Return the optimizer steps of a run of `data` with these values."""
    return values["train.epochs"] * (data.train_rows // values["data.global_batch_size"])


def predict_s(data: DataFacts, values: dict[str, Any], speed: Speed) -> float:
    """Return the seconds that a run takes: start, compilation, steps, evaluations."""
    epochs, every = values["train.epochs"], values["train.eval_every_epochs"]
    evaluations = epochs // every + (epochs % every > 0)
    rows = evaluations * data.val_rows
    return speed.start_s + speed.compile_s + steps_of(data, values) * speed.step_s + rows * speed.eval_row_s


def epochs_within(data: DataFacts, values: dict[str, Any], speed: Speed, seconds: float) -> int:
    """Return the most epochs that fit into `seconds`. Raises ConfigError if not even one does, with the time of one."""

    def needed_s(epochs: int) -> float:
        return predict_s(data, {**values, **_epoch_values(epochs)}, speed)

    # The time does not rise with every epoch: 19 epochs are evaluated 19 times, 20 are evaluated 10 times.
    most = max((epochs for epochs in range(1, _MOST_TIMED_EPOCHS + 1) if needed_s(epochs) <= seconds), default=0)
    if not most:
        one = needed_s(1)
        raise ConfigError(
            f"--minutes {seconds / 60:g}: one epoch takes {one / 60:.1f} minutes here; pass at least --minutes "
            f"{math.ceil(one / 60)}"
        )
    return most


def _epoch_values(epochs: int) -> dict[str, int]:
    return {"train.epochs": epochs, "train.eval_every_epochs": max(1, epochs // _EVALUATIONS)}


def _batch(rows: int) -> int:
    largest = _LARGE_BATCH if rows >= _LARGE_ROWS else _BATCH
    return min(largest, max(2, 2 * (rows // 4)))


def _size(data: DataFacts, weights: WeightFacts | None) -> tuple[int, str]:
    side = _rounded(data.side_px)
    if weights is not None:
        size = min(_rounded(weights.size_px), side)
        reason = f"the weights were made for {weights.size_px} px, the images' shorter side is {data.side_px} px"
        return size, reason
    most = _SIDE_OF_MANY if data.train_rows >= _FEW_ROWS else _SIDE_OF_FEW
    reason = f"the images' shorter side is {data.side_px} px (median); {data.train_rows:,} images: {most} px at most"
    return min(side, most), reason


def _rounded(side_px: int) -> int:
    return min(_MOST_SIDE, max(_SIDE_STEP, round(side_px / _SIDE_STEP) * _SIDE_STEP))


def _epochs(data: DataFacts, has_weights: bool) -> tuple[int, str]:
    seen = _SEEN_IMAGES[has_weights]
    epochs = max(_LEAST_EPOCHS[has_weights], min(_MOST_EPOCHS[has_weights], round(seen / data.train_rows)))
    return epochs, f"{epochs * data.train_rows:,} images in all; the recipe was made with {seen:,}"


def _network(rows: int) -> tuple[dict[str, Any], str]:
    if rows < _FEW_ROWS:
        return {}, f"five blocks, as in the preset: fewer than {_FEW_ROWS:,} images"
    return {"model.depths": [], "model.dims": []}, f"all of ConvNeXt-atto: at least {_FEW_ROWS:,} images"
