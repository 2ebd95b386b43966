"""A training step and a sum that come out wrong are errors; `test_doctor.py` tries the step itself."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks
from convnext_imagenet.launch.ranks.rank import Rank
from convnext_imagenet.train import doctor
from convnext_imagenet.train.doctor import ERROR, OK


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.386, math.inf), (1.2, 1.0), (1.6, 1.0)])
def test_a_step_of_another_loss_than_chance_is_an_error(
    monkeypatch: pytest.MonkeyPatch, loss: float, norm: float
) -> None:
    monkeypatch.setattr(doctor, "Learner", lambda *_: SimpleNamespace(learn=lambda *_, **__: None, drop_path_rates=()))
    monkeypatch.setattr(doctor, "device_draws", lambda *_: None)
    monkeypatch.setattr(doctor, "read_outcome", lambda _: SimpleNamespace(loss=loss, gradient_norm=norm))
    assert doctor.try_step(SINGLE).level == ERROR


@pytest.mark.parametrize(("others", "level"), [(3, OK), (2, ERROR), (0, ERROR)])
def test_a_sum_that_is_wrong_is_an_error(others: int, level: str) -> None:
    """Rank 0 of three gives 0; the others should give 1 and 2."""

    def add(digits: np.ndarray) -> np.ndarray:
        digits = digits.copy()
        digits[0, 0] += others
        return digits

    finding = doctor.try_sum(Ranks(Rank(0, 3), add))
    assert (finding.level, finding.found) == (level, f"{others} over 3 ranks, expected 3")
    assert doctor.try_sum(SINGLE).level == OK
