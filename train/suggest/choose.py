"""Chooses a configuration from what records hold and from the speed of a machine. Pure: reads nothing, runs nothing.

The recipes are those of the presets; here are only the choices that depend on the data.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from convnext_imagenet.train.errors import ConfigError

_SIDE_STEP, _MOST_SIDE = 32, 224
_SIDE_OF_FEW, _SIDE_OF_MANY = 64, 128  # from random weights; larger costs the square and gives little in minutes
_FEW_ROWS = 10_000  # `small` is for fewer images, `medium` for at least so many
_LARGE_ROWS = 20_000  # longer epochs of fine-tuning allow larger steps
_WARMUP_SHARE = 0.08
_UNEVEN = 10.0  # rows of the largest class to those of the smallest, from which on classes are drawn more evenly
_EVALUATIONS = 10
_MOST_TIMED_EPOCHS = 1000  # with --minutes


@dataclass(frozen=True)
class Recipe:
    """A preset, its rows of a step, rate and shortest warm-up, and the images that it showed where it was measured.

    Between `least_epochs` and `most_epochs`, a set gets as many epochs as show it that many images.
    """

    preset: str
    batch: int
    rate: float
    least_warmup_epochs: float
    seen_images: int
    least_epochs: int
    most_epochs: int


_FINETUNE = Recipe("small-finetune", 32, 5e-4, 1.0, 10 * 1040, 5, 50)
_SMALL = Recipe("small", 32, 8e-4, 1.0, 50 * 1040, 20, 300)
_MEDIUM = Recipe("medium", 64, 1e-2, 0.5, 10 * 12_894, 10, 300)
_LEAST_TIMED_EPOCHS = 6  # of `medium`, with --minutes: fewer would show too little, so images become smaller


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
    """A recipe, the keys that replace its preset's values, and the reason for each key or other choice, in order."""

    recipe: Recipe
    values: dict[str, Any]
    reasons: list[tuple[str, str]] = field(default_factory=list)


def choose(
    data: DataFacts, weights: WeightFacts | None, epochs: int | None = None, most_side_px: int = _MOST_SIDE
) -> Choice:
    """Return the configuration for the data, with `epochs` epochs or as many as the recipe needs.

    Images are at most `most_side_px` large. Raises ConfigError for data that no run can use: fewer than two classes or
    rows.
    """
    if data.classes < 2:
        raise ConfigError(f"the records hold {data.classes} class, and training needs at least 2; add another class")
    if data.train_rows < 2:
        raise ConfigError(f"the records hold {data.train_rows} training rows; add images")
    recipe = _recipe(data, weights)
    batch = _batch(data.train_rows, recipe)
    size, size_reason = _size(data, weights, most_side_px)
    most = "the most that is tried" if epochs == _MOST_TIMED_EPOCHS else "as many as the minutes allow"
    epochs, epochs_reason = (epochs, most) if epochs else _epochs(data, recipe)
    warmup = round(max(recipe.least_warmup_epochs, _WARMUP_SHARE * epochs) if epochs > 1 else 0.0, 1)
    values: dict[str, Any] = {
        "data.size_px": size,
        "data.global_batch_size": batch,
        "schedule.base_lr": float(f"{recipe.rate * math.sqrt(batch / recipe.batch):.2g}"),
        "schedule.warmup_epochs": min(warmup, epochs / 2),
        **_epoch_values(epochs),
    }
    scale = f", times the square root of {batch} / {recipe.batch}" if batch != recipe.batch else ""
    reasons = [
        ("weights", f"{weights.network}: the network and its evaluation come from them")
        if weights is not None
        else ("weights", "none given: a small network from random weights; with trained ones it would be better"),
        ("data.size_px", size_reason),
        ("data.global_batch_size", f"for {data.train_rows:,} training images"),
        ("schedule.base_lr", f"the recipe's rate for {recipe.batch} rows{scale}"),
        ("train.epochs", epochs_reason),
    ]
    if recipe is _SMALL:
        reasons.append(("model.depths", f"five blocks, as in the preset: fewer than {_FEW_ROWS:,} images"))
    if recipe is _MEDIUM:
        reasons.append(("model.variant", f"all of ConvNeXt-atto, moved by Muon: at least {_FEW_ROWS:,} images"))
    if data.most_rows >= _UNEVEN * max(1, data.least_rows):
        values["data.balance_power"] = 0.5
        counts = f"{data.least_rows:,} to {data.most_rows:,} images a class"
        reasons.append(("data.balance_power", f"{counts}: rare classes are drawn more often"))
    return Choice(recipe, values, reasons)


def smaller(data: DataFacts, choice: Choice, epochs: int) -> Choice | None:
    """Return the choice with smaller images if only `epochs` epochs fit and the recipe needs more; None if it stays.

    Only `medium` has been measured at its smaller size.
    """
    if choice.recipe is not _MEDIUM or epochs >= _LEAST_TIMED_EPOCHS or choice.values["data.size_px"] <= _SIDE_OF_FEW:
        return None
    return choose(data, None, most_side_px=_SIDE_OF_FEW)


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
    """Return the most epochs that fit into `seconds`; 0 if not even one does."""
    # The time does not rise with every epoch: 19 epochs are evaluated 19 times, 20 are evaluated 10 times.
    return max((n for n in range(1, _MOST_TIMED_EPOCHS + 1) if _needed_s(data, values, speed, n) <= seconds), default=0)


def require_an_epoch(data: DataFacts, values: dict[str, Any], speed: Speed, seconds: float) -> int:
    """Return the most epochs that fit into `seconds`. Raises ConfigError if not even one does, with the time of one."""
    most = epochs_within(data, values, speed, seconds)
    if not most:
        one = _needed_s(data, values, speed, 1)
        raise ConfigError(
            f"--minutes {seconds / 60:g}: one epoch takes {one / 60:.1f} minutes here; pass at least --minutes "
            f"{math.ceil(one / 60)}"
        )
    return most


def _needed_s(data: DataFacts, values: dict[str, Any], speed: Speed, epochs: int) -> float:
    return predict_s(data, {**values, **_epoch_values(epochs)}, speed)


def _epoch_values(epochs: int) -> dict[str, int]:
    return {"train.epochs": epochs, "train.eval_every_epochs": max(1, epochs // _EVALUATIONS)}


def _recipe(data: DataFacts, weights: WeightFacts | None) -> Recipe:
    if weights is not None:
        return _FINETUNE
    return _SMALL if data.train_rows < _FEW_ROWS else _MEDIUM


def _batch(rows: int, recipe: Recipe) -> int:
    largest = 2 * recipe.batch if recipe is _FINETUNE and rows >= _LARGE_ROWS else recipe.batch
    return min(largest, max(2, 2 * (rows // 4)))


def _size(data: DataFacts, weights: WeightFacts | None, most_side_px: int) -> tuple[int, str]:
    side = _rounded(data.side_px)
    if weights is not None:
        size = min(_rounded(weights.size_px), side)
        reason = f"the weights were made for {weights.size_px} px, the images' shorter side is {data.side_px} px"
        return size, reason
    most = _SIDE_OF_MANY if data.train_rows >= _FEW_ROWS else _SIDE_OF_FEW
    if most_side_px < min(side, most):
        return most_side_px, f"the minutes allow too few epochs of {min(side, most)} px"
    reason = f"the images' shorter side is {data.side_px} px (median); {data.train_rows:,} images: {most} px at most"
    return min(side, most), reason


def _rounded(side_px: int) -> int:
    return min(_MOST_SIDE, max(_SIDE_STEP, round(side_px / _SIDE_STEP) * _SIDE_STEP))


def _epochs(data: DataFacts, recipe: Recipe) -> tuple[int, str]:
    epochs = max(recipe.least_epochs, min(recipe.most_epochs, round(recipe.seen_images / data.train_rows)))
    return epochs, f"{epochs * data.train_rows:,} images in all; the recipe was made with {recipe.seen_images:,}"
