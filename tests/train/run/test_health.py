"""When the numbers of a run give a warning, and when they do not."""

import dataclasses
import math

import pytest

from convnext_imagenet.train.config.schedule import StepPlan
from convnext_imagenet.train.config.sections import AugmentSection, DataSection, ScheduleSection
from convnext_imagenet.train.data.pipeline import StageTimes
from convnext_imagenet.train.run.epoch import EpochReport, StepReport
from convnext_imagenet.train.run.health import RunHealth, augment_warnings, size_warnings

PLAN = StepPlan(rows=800, global_batch_size=8, epochs=3, steps_per_epoch=100, warmup_steps=20, total_steps=300)
CHANCE = math.log(10)
STEP = StepReport(1, 1, 1, 8, CHANCE, 1e-3, 1.0, True, 1.0)
EPOCH = EpochReport(2, 100, 200, 1.0, 1.0, 0.5, 1e-3, 0, 10.0, 1.0, 10.0, 1.0, None, None)


def _warnings(losses: list[float], taken: bool = True) -> list[tuple[int, str]]:
    health = RunHealth(ScheduleSection(), 10, PLAN)
    reports = [
        dataclasses.replace(STEP, step=n, steps_done=n, loss=loss, taken=taken) for n, loss in enumerate(losses, 1)
    ]
    return [(report.step, text) for report in reports for text in health.after_step(report)]


def test_a_loss_that_stays_at_chance_level_is_told_once_after_warmup() -> None:
    warnings = _warnings([CHANCE * 0.995] * 200)
    assert [step for step, _ in warnings] == [70]  # 20 of warm-up and a window of 50
    assert "ln(classes) = 2.303" in warnings[0][1]


def test_it_is_told_again_when_it_comes_back() -> None:
    assert len(_warnings([CHANCE] * 80 + [1.0] * 60 + [CHANCE] * 60)) == 2


@pytest.mark.parametrize("losses", [[CHANCE * 0.9] * 200, [CHANCE] * 69, [CHANCE] * 20 + [1.5] * 150])
def test_a_loss_that_falls_is_not_worth_a_word(losses: list[float]) -> None:
    assert _warnings(losses) == []


def test_overflows_in_a_row_are_told_once() -> None:
    warnings = _warnings([math.inf] * 50, taken=False)
    assert [step for step, _ in warnings] == [20]
    assert "20 steps in a row overflowed" in warnings[0][1]


@pytest.mark.parametrize(("waited_s", "count"), [(1.0, 0), (1.9, 0), (2.5, 1), (9.0, 1)])
def test_steps_that_wait_for_data_are_told_with_the_slow_stage(waited_s: float, count: int) -> None:
    times = StageTimes()
    warnings = RunHealth(ScheduleSection(), 10, PLAN).after_epoch(
        dataclasses.replace(EPOCH, data_wait_s=waited_s), times
    )
    assert len(warnings) == count
    if count:
        assert f"{10 * waited_s:.0f} % of the time" in warnings[0]
        assert times.slowest() in warnings[0]


def test_epochs_that_wait_for_data_are_told_once_until_one_does_not() -> None:
    health, times = RunHealth(ScheduleSection(), 10, PLAN), StageTimes()
    waits = (9.0, 9.0, 1.0, 9.0)
    told = [len(health.after_epoch(dataclasses.replace(EPOCH, data_wait_s=wait_s), times)) for wait_s in waits]
    assert told == [1, 0, 0, 1]


def test_sizes_that_drop_border_pixels_are_told_with_the_nearest_that_does_not() -> None:
    assert size_warnings(DataSection()) == []
    (text,) = size_warnings(DataSection(size_px=96, eval_size_px=80))
    assert text.startswith("data.eval_size_px = 80: not a multiple of 32")
    assert text.endswith("the nearest is 64")


@pytest.mark.parametrize(
    ("device", "policy", "target", "count"),
    [
        ("all", "rand-m9-mstd0.5-inc1", "Ascend", 1),
        ("rest", "rand-m9-mstd0.5-inc1", "Ascend", 0),
        ("all", "", "Ascend", 0),
        ("all", "rand-m9-mstd0.5-inc1", "GPU", 0),
    ],
)
def test_randaugment_in_the_graph_of_an_ascend_is_warned_of(device: str, policy: str, target: str, count: int) -> None:
    section = AugmentSection(device=device, auto_augment=policy)  # type: ignore[arg-type]
    assert len(augment_warnings(section, target)) == count
