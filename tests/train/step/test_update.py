"""Clip, average, loss scale and skipped steps against NumPy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.sections import EmaSection, OptimizerSection, PrecisionSection
from convnext_imagenet.train.step.update import Update, make_buckets

DEPTHS = (1, 1, 1, 1)
SHAPES = {"head.weight": (3, 4), "norm.bias": (4,)}
RATE = 0.5


class WholeUpdate(nn.Cell):
    """The update as a step of one rank calls it."""

    def __init__(self, update: Update) -> None:
        super().__init__(auto_prefix=False)
        self.update = update

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        gradients = self.update.unscaled(gradients)
        return self.update(gradients, self.update.half_squares(gradients), rate, decay)


def _update(**sections: object) -> tuple[Update, dict[str, Parameter]]:
    sections.setdefault("optimizer", OptimizerSection(name="sgd", momentum=0.0, weight_decay=0.0))
    parameters = {name: Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in SHAPES.items()}
    config = Config(**sections)  # type: ignore[arg-type]
    return Update(make_buckets(parameters, config, DEPTHS), config, DEPTHS), parameters


def _gradients(value: float) -> dict[str, np.ndarray]:
    return {name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()}


def _step(update: Update, gradients: dict[str, np.ndarray], decay: float = 0.0) -> tuple[float, bool]:
    tensors = tuple(Tensor(value) for value in gradients.values())
    norm, taken = WholeUpdate(update)(tensors, Tensor(RATE, ms.float32), Tensor(decay, ms.float32))
    return float(norm.asnumpy()), bool(taken.asnumpy())


@pytest.mark.parametrize(("value", "factor"), [(0.1, 1.0), (2.0, 1.0 / 8.0)])
def test_gradients_are_clipped_by_their_global_norm(value: float, factor: float) -> None:
    section = OptimizerSection(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    update, parameters = _update(optimizer=section)
    norm, taken = _step(update, _gradients(value))
    assert (norm, taken) == (pytest.approx(4 * value), True)  # sixteen values
    for parameter in parameters.values():
        np.testing.assert_allclose(parameter.asnumpy(), 1 - RATE * value * factor, rtol=1e-5)


def test_the_average_follows_the_weights_after_each_step() -> None:
    update, parameters = _update(ema=EmaSection(decay=0.9))
    weight, average = 1.0, 1.0
    for value, decay in ((1.0, 0.0), (2.0, 0.5), (-1.0, 0.9)):
        _step(update, _gradients(value), decay)
        weight -= RATE * value
        average = decay * average + (1 - decay) * weight
        np.testing.assert_allclose(parameters["head.weight"].asnumpy(), weight, rtol=1e-6)
        np.testing.assert_allclose(update.average()["head.weight"], average, rtol=1e-6)
    assert update.average().keys() == SHAPES.keys()


@pytest.mark.slow
def test_an_overflow_changes_nothing_but_the_scale() -> None:
    dynamic = PrecisionSection("O2", "float16", "dynamic", scale_init=8.0, scale_factor=2.0, scale_window=3)
    update, parameters = _update(precision=dynamic, ema=EmaSection(decay=0.9))
    scales, weight, average = [], 1.0, 1.0
    for bad in (False, True, True, False, False, False, True, True, True, True, True):
        scale = float(update.scale.asnumpy())
        gradients = _gradients(scale * 0.25)
        if bad:
            gradients["norm.bias"][1] = np.inf if len(scales) % 2 else np.nan
        _, taken = _step(update, gradients, 0.9)
        assert taken != bad
        if taken:
            weight -= RATE * 0.25
            average = 0.9 * average + 0.1 * weight
        scales.append(float(update.scale.asnumpy()))
        np.testing.assert_allclose(parameters["norm.bias"].asnumpy(), weight, rtol=1e-6)
        np.testing.assert_allclose(update.average()["norm.bias"], average, rtol=1e-6)
    assert scales == [8, 4, 2, 2, 2, 4, 2, 1, 1, 1, 1]
    assert int(update.state()["optimizer.step"]) == 4
    assert {"loss_scale.value", "loss_scale.good_steps"} <= update.state().keys()


@pytest.mark.slow
def test_an_overflow_starts_the_count_of_good_steps_again() -> None:
    dynamic = PrecisionSection("O2", "float16", "dynamic", scale_init=8.0, scale_factor=2.0, scale_window=3)
    update, _ = _update(precision=dynamic)
    scales = []
    for bad in (False, True, False, False, False):
        _step(update, _gradients(np.inf if bad else 1.0))
        scales.append(float(update.scale.asnumpy()))
    assert scales == [8, 4, 4, 4, 8]


def test_a_static_scale_stays_and_skips() -> None:
    update, parameters = _update(precision=PrecisionSection("O1", "float16", "static", scale_init=4.0))
    assert _step(update, _gradients(np.inf))[1] is False
    assert _step(update, _gradients(4.0)) == (pytest.approx(4.0), True)
    np.testing.assert_allclose(parameters["norm.bias"].asnumpy(), 1 - RATE)
    assert float(update.scale.asnumpy()) == 4.0
    assert "loss_scale.value" not in update.state()


def test_without_average_or_dynamic_scale_the_state_has_neither() -> None:
    update, _ = _update()
    assert not update.average()
    assert all(name.startswith("optimizer.") for name in update.state())
