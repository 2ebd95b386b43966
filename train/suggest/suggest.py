"""From records to the text of a configuration: reads the facts, measures, chooses, and says why."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convnext_imagenet.base.wording import as_word
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.weight_check import describe
from convnext_imagenet.model.weights import load_weights
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.row_lookup import read_index
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.from_weights import load_config_for_weights
from convnext_imagenet.train.config.source import load_config, stated_values, to_toml_value
from convnext_imagenet.train.run.initial_weights import GivenWeights, initial_weights
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config
from convnext_imagenet.train.suggest.choose import (
    Choice,
    DataFacts,
    Speed,
    WeightFacts,
    choose,
    epochs_within,
    predict_s,
    require_an_epoch,
    smaller,
    steps_of,
)
from convnext_imagenet.train.suggest.measure import measure


@dataclass(frozen=True)
class SuggestRequest:
    """What a suggestion is made for: records, weights to start from, and the minutes that a run may take, if any."""

    records: Path
    init_from: Path | None
    minutes: float | None
    workers: int


def suggest(request: SuggestRequest, start_s: Callable[[], float], say: Callable[[str], None]) -> str:
    """Return a configuration as TOML whose header says why each key was chosen, and how long the run will take.

    `start_s` returns the seconds since this process began; `say` gets progress lines. Raises what opening records and
    weights raises, and ConfigError for data that no run can use and minutes that are too few.
    """
    records = Records.open(request.records)
    given = None if request.init_from is None else GivenWeights(request.init_from, *load_weights(request.init_from))
    data = read_facts(records)
    weights = None if given is None else WeightFacts(describe(given.card.config), given.card.transform.size_px)
    choice = choose(data, weights)
    speed = _speed(choice, records, given, request.workers, start_s, say)
    if request.minutes is None:
        return _text(choice, data, speed, request)
    seconds = 60 * request.minutes
    if (other := smaller(data, choice, epochs_within(data, choice.values, speed, seconds))) is not None:
        choice, speed = other, _speed(other, records, given, request.workers, start_s, say)
    epochs = require_an_epoch(data, choice.values, speed, seconds)
    return _text(choose(data, weights, epochs, choice.values["data.size_px"]), data, speed, request)


def _speed(
    choice: Choice,
    records: Records,
    given: GivenWeights | None,
    workers: int,
    start_s: Callable[[], float],
    say: Callable[[str], None],
) -> Speed:
    config = _config(choice, given)
    network = network_config(config.model, len(records.classes))
    classes = tuple((entry.wnid, entry.name) for entry in records.classes)
    card = ModelCard(config=network, classes=classes, transform=evaluation_transform(config.data))
    say(f"measuring a few steps at {config.data.size_px} px")
    first = initial_weights(config, card, given)
    return measure(config, card, first.arrays, records, workers, start_s())


def read_facts(records: Records) -> DataFacts:
    """Return what the records hold. Raises ArtefactError for a damaged index."""
    train, val = records.split("train"), records.split("val")
    counts = train.entry.rows_per_class
    index = read_index(records, ("width", "height"))
    side_px = int(np.median(np.minimum(index["width"].to_numpy(), index["height"].to_numpy())))
    return DataFacts(len(records.classes), train.rows, val.rows, max(counts), min(counts), side_px)


def _config(choice: Choice, given: GivenWeights | None) -> Config:
    overrides = _overrides(choice)
    if given is None:
        return load_config(choice.recipe.preset, overrides)
    return load_config_for_weights(choice.recipe.preset, overrides, given.card, None)


def _overrides(choice: Choice) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in choice.values.items()]


def _text(choice: Choice, data: DataFacts, speed: Speed, request: SuggestRequest) -> str:
    seconds, steps = predict_s(data, choice.values, speed), steps_of(data, choice.values)
    command = f"convnext-train run THIS.toml --records {as_word(request.records)} --out RUN"
    if request.init_from is not None:
        command += f" --init-from {as_word(request.init_from)}"
    header = [
        f"Suggested for {request.records}: {data.classes} classes, {data.train_rows:,} training and {data.val_rows:,} "
        f"val images.",
        f"Command:  {command}",
        f"Minutes:  {seconds / 60:.1f} on this machine: {speed.start_s + speed.compile_s:.0f} s to start and compile, "
        f"{steps:,} steps of {1000 * speed.step_s:.0f} ms",
        f"Based on: the preset {choice.recipe.preset}. What depends on the data:",
        *(f"  {key}: {reason}" for key, reason in choice.reasons),
    ]
    sections = stated_values(choice.recipe.preset, _overrides(choice))
    return "\n".join([*(f"# {line}" for line in header), "", *_section_lines(sections)])


def _section_lines(sections: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, keys in sections.items():
        lines += [f"[{name}]", *(f"{key} = {to_toml_value(value)}" for key, value in keys.items()), ""]
    return lines
