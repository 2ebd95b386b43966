"""What is suggested for which records: sizes, epochs, rates, and a time that was asked for."""

import pytest

from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.errors import ConfigError
from convnext_imagenet.train.suggest.choose import (
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

FLOWERS = DataFacts(classes=5, train_rows=1040, val_rows=260, most_rows=208, least_rows=208, side_px=96)
MANY = DataFacts(classes=200, train_rows=100_000, val_rows=10_000, most_rows=500, least_rows=500, side_px=300)
UNEVEN = DataFacts(classes=20, train_rows=3000, val_rows=300, most_rows=900, least_rows=12, side_px=48)
TINY = WeightFacts("convnext_tiny with 1000 classes", 224)
SPEED = Speed(start_s=4.0, compile_s=16.0, step_s=0.05, eval_row_s=0.002)


@pytest.mark.parametrize(
    ("data", "weights", "preset", "expected"),
    [
        (FLOWERS, None, "small", {"data.size_px": 64, "data.global_batch_size": 32, "train.epochs": 50}),
        (FLOWERS, TINY, "small-finetune", {"data.size_px": 96, "train.epochs": 10, "schedule.base_lr": 5e-4}),
        (MANY, None, "medium", {"data.size_px": 128, "data.global_batch_size": 64, "train.epochs": 10}),
        (MANY, TINY, "small-finetune", {"data.size_px": 224, "data.global_batch_size": 64, "train.epochs": 5}),
        (UNEVEN, None, "small", {"data.size_px": 64, "data.balance_power": 0.5}),
    ],
)
def test_the_configuration_follows_from_the_data(
    data: DataFacts, weights: WeightFacts | None, preset: str, expected: dict[str, object]
) -> None:
    choice = choose(data, weights)
    assert choice.recipe.preset == preset
    assert {key: choice.values.get(key) for key in expected} == expected
    config = load_config(preset, [f"{key}={value}" for key, value in choice.values.items()])
    assert config.schedule.warmup_epochs < config.train.epochs
    explained = {key for key, _ in choice.reasons}
    assert {"data.size_px", "schedule.base_lr", "train.epochs"} <= explained


@pytest.mark.parametrize("rows", [2, 3, 5, 31, 33, 1000, 20_000, 1_281_167])
@pytest.mark.parametrize("weights", [None, TINY])
def test_every_number_of_rows_gives_a_configuration_that_runs(rows: int, weights: WeightFacts | None) -> None:
    data = DataFacts(2, rows, 1, rows - 1, 1, 33)
    choice = choose(data, weights)
    assert steps_of(data, choice.values) >= 1
    load_config(choice.recipe.preset, [f"{key}={value}" for key, value in choice.values.items()])


def test_minutes_are_kept_and_too_few_are_refused_with_enough() -> None:
    values = choose(FLOWERS, None).values
    epochs = epochs_within(FLOWERS, values, SPEED, 120)
    shorter = choose(FLOWERS, None, epochs).values
    assert predict_s(FLOWERS, shorter, SPEED) <= 120
    longer = choose(FLOWERS, None, epochs + 2).values
    assert predict_s(FLOWERS, longer, SPEED) > 120
    assert epochs_within(FLOWERS, values, SPEED, 6) == 0
    with pytest.raises(ConfigError, match=r"--minutes 0\.1: one epoch takes 0\.4 minutes here; pass at least .* 1"):
        require_an_epoch(FLOWERS, values, SPEED, 6)
    assert require_an_epoch(FLOWERS, values, SPEED, 60) >= 1


@pytest.mark.parametrize(
    ("data", "weights", "epochs", "size_px"),
    [(MANY, None, 5, 64), (MANY, None, 0, 64), (MANY, None, 6, None), (FLOWERS, None, 1, None), (MANY, TINY, 1, None)],
)
def test_many_images_are_smaller_if_too_few_epochs_fit(
    data: DataFacts, weights: WeightFacts | None, epochs: int, size_px: int | None
) -> None:
    found = smaller(data, choose(data, weights), epochs)
    assert (found and found.values["data.size_px"]) == size_px
    if found is not None:
        assert dict(found.reasons)["data.size_px"] == "the minutes allow too few epochs of 128 px"
        assert smaller(data, found, epochs) is None


def test_the_prediction_adds_up_its_parts() -> None:
    values = {**choose(FLOWERS, None).values, "train.epochs": 7, "train.eval_every_epochs": 3}
    assert steps_of(FLOWERS, values) == 7 * 32
    assert predict_s(FLOWERS, values, SPEED) == pytest.approx(4 + 16 + 7 * 32 * 0.05 + 3 * 260 * 0.002)


@pytest.mark.parametrize(("classes", "rows", "said"), [(1, 50, "hold 1 class"), (2, 1, "hold 1 training rows")])
def test_data_that_cannot_be_trained_on_are_refused(classes: int, rows: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose(DataFacts(classes, rows, 1, rows, rows, 64), None)
