"""Step counts, shares of a batch, and the learning rate against the table of the paper's code."""

import dataclasses

import numpy as np
import pytest

from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.schedule import StepPlan, ema_decay, learning_rate, local_positions, plan_steps
from convnext_imagenet.train.config.sections import EmaSection, ScheduleSection
from convnext_imagenet.train.errors import ConfigError

PAPER = plan_steps(Config(), rows=1_281_167)
SHORT = StepPlan(rows=40, global_batch_size=8, epochs=2, steps_per_epoch=5, warmup_steps=3, total_steps=10)


def test_the_papers_run_has_the_papers_steps() -> None:
    plan = plan_steps(Config(), rows=1_281_167)
    assert (plan.steps_per_epoch, plan.warmup_steps, plan.total_steps) == (312, 6_240, 93_600)


@pytest.mark.parametrize(
    ("rows", "batch", "steps"),
    [(8, 8, 1), (15, 8, 1), (16, 8, 2), (12_894, 64, 201)],
)
def test_the_last_incomplete_batch_is_dropped(rows: int, batch: int, steps: int) -> None:
    config = config_from_mapping(
        {
            "data": {"global_batch_size": batch},
            "mix": {"prob": 0},
            "train": {"epochs": 3},
            "schedule": {"warmup_epochs": 0.5},
        }
    )
    plan = plan_steps(config, rows)
    assert (plan.steps_per_epoch, plan.total_steps) == (steps, 3 * steps)
    assert plan.warmup_steps == round(steps / 2)


def test_fewer_rows_than_a_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"global_batch_size = 4096: must not exceed the 100 .*batch_size=12"):
        plan_steps(Config(), rows=100)


@pytest.mark.parametrize(("size", "parts"), [(8, 1), (7, 1), (8, 2), (8, 4), (4096, 64)])
def test_parts_share_out_a_batch_in_pairs(size: int, parts: int) -> None:
    places = [local_positions(size, part, parts) for part in range(parts)]
    assert sorted(np.concatenate(places).tolist()) == list(range(size))
    for place in places:
        np.testing.assert_array_equal(place + place[::-1], size - 1)


def test_a_batch_that_parts_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="10 rows in 4 parts of pairs: must be a multiple of 8"):
        local_positions(10, 0, 4)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (1, 6.411284e-07),  # 4e-3 / 6239
        (3_120, 2.0003206e-03),
        (6_239, 4e-3),
        (6_240, 4e-3),
        (49_920, 2.0005e-03),  # the cosine's middle
        (93_599, 1.0000013e-06),
    ],
)
def test_rate_rises_linearly_then_falls_by_cosine(step: int, rate: float) -> None:
    assert learning_rate(step, PAPER, ScheduleSection()) == pytest.approx(rate, rel=1e-6)


def test_every_step_equals_the_papers_code() -> None:
    schedule = ScheduleSection(base_lr=4e-3, warmup_lr=1e-5, min_lr=1e-6)
    after = np.arange(SHORT.total_steps - SHORT.warmup_steps)
    cosine = 1e-6 + 0.5 * (4e-3 - 1e-6) * (1 + np.cos(np.pi * after / len(after)))
    expected = np.concatenate([np.linspace(1e-5, 4e-3, SHORT.warmup_steps), cosine])
    rates = [learning_rate(step, SHORT, schedule) for step in range(SHORT.total_steps)]
    assert rates == pytest.approx(expected.tolist(), rel=1e-6)


def test_without_warmup_the_run_starts_at_the_peak() -> None:
    plan = dataclasses.replace(SHORT, warmup_steps=0)
    assert learning_rate(0, plan, ScheduleSection()) == pytest.approx(4e-3, rel=1e-6)


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_of_the_run_is_a_bug(step: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        learning_rate(step, SHORT, ScheduleSection())


def test_a_constant_rate_stays_after_warmup() -> None:
    rates = [learning_rate(step, SHORT, ScheduleSection(kind="constant")) for step in range(10)]
    assert rates[2:] == [4e-3] * 8


def test_steps_fall_every_few_epochs_down_to_the_floor() -> None:
    plan = StepPlan(rows=80, global_batch_size=8, epochs=6, steps_per_epoch=10, warmup_steps=10, total_steps=60)
    section = ScheduleSection(kind="step", base_lr=1.0, min_lr=0.02, decay_epochs=2, decay_rate=0.1)
    rates = [learning_rate(step, plan, section) for step in (10, 19, 20, 39, 40, 59)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.02, 0.02])


def test_the_average_forgets_its_start_when_it_warms_up() -> None:
    assert [ema_decay(step, EmaSection(decay=0.9999)) for step in (0, 10**6)] == [0.9999, 0.9999]
    warmed = [ema_decay(step, EmaSection(decay=0.9999, warmup=True)) for step in (0, 90, 10**6)]
    assert warmed == [0.1, 0.91, 0.9999]
