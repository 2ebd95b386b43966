"""Step counts."""

import numpy as np
import pytest

from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.schedule import local_positions, plan_steps
from convnext_imagenet.train.errors import ConfigError


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
    with pytest.raises(ConfigError, match=r"global_batch_size = 10: 4 parts .* multiple of 8; the nearest is 8"):
        local_positions(10, 0, 4)
