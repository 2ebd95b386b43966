"""The optimizers against an independent reference in float64, and which parameters decay."""

from typing import get_args, get_type_hints

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from convnext_imagenet.model.convnext import VARIANTS, parameter_shapes
from convnext_imagenet.train.config.sections import OptimizerSection
from convnext_imagenet.train.step import optimizers
from convnext_imagenet.train.step.optimizers import Moved, Optimizer, make_optimizer, moves_as_a_whole, weight_decay

NAMES = get_args(get_type_hints(OptimizerSection)["name"])
SHAPES = {"a.weight": (7, 5), "a.bias": (7,), "grn.gamma": (1, 1, 1, 6), "wide.weight": (40, 3, 2, 2)}


# The rules in float64, after their papers and PyTorch's documentation.
Arrays = dict[str, np.ndarray]


def optimize(
    weights: Arrays, gradients: list[Arrays], rates: list[float], decayed: set[str], section: OptimizerSection
) -> Arrays:
    """Return the weights after a step for each of `gradients`; only `decayed` names decay."""
    rule = {"sgd": _sgd, "lamb": _lamb, "muon": _muon}.get(section.name, _adam)
    values = {name: value.astype(np.float64) for name, value in weights.items()}
    moments = {name: [np.zeros(value.shape), np.zeros(value.shape)] for name, value in weights.items()}
    for t, (step, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for name, value in values.items():
            decay = section.weight_decay if name in decayed else 0.0
            values[name] = rule(value, step[name].astype(np.float64), moments[name], t, rate, decay, section)
    return values


def _moved_moments(gradient: np.ndarray, moments: list[np.ndarray], section: OptimizerSection) -> None:
    moments[0] = section.beta1 * moments[0] + (1 - section.beta1) * gradient
    moments[1] = section.beta2 * moments[1] + (1 - section.beta2) * gradient**2


def _adam(value, gradient, moments, t, rate, decay, section) -> np.ndarray:
    _moved_moments(gradient, moments, section)
    is_corrected = section.name != "adamw_uncorrected"
    mean = moments[0] / (1 - section.beta1**t if is_corrected else 1)
    variance = moments[1] / (1 - section.beta2**t if is_corrected else 1)
    return value - rate * decay * value - rate * mean / (np.sqrt(variance) + section.eps)


def _sgd(value, gradient, moments, t, rate, decay, section) -> np.ndarray:
    pull = gradient + decay * value
    moments[0] = section.momentum * moments[0] + pull
    return value - rate * (pull + section.momentum * moments[0] if section.nesterov else moments[0])


def _lamb(value, gradient, moments, t, rate, decay, section) -> np.ndarray:
    _moved_moments(gradient, moments, section)
    mean, variance = moments[0] / (1 - section.beta1**t), moments[1] / (1 - section.beta2**t)
    direction = mean / (np.sqrt(variance) + section.eps) + decay * value
    size, length = np.linalg.norm(value), np.linalg.norm(direction)
    trust = size / length if decay and size and length else 1.0
    return value - rate * trust * direction


def _muon(value, gradient, moments, t, rate, decay, section) -> np.ndarray:
    """Keller Jordan's rule with the step size of arXiv 2502.16982; of SHAPES, the matrices are those that decay."""
    if not decay:
        return _adam(value, gradient, moments, t, rate, decay, section)
    moments[0] = section.momentum * moments[0] + (1 - section.momentum) * gradient
    pull = section.momentum * moments[0] + (1 - section.momentum) * gradient if section.nesterov else moments[0]
    x = pull.reshape(len(pull), -1)
    size = 0.2 * np.sqrt(max(x.shape))
    x = x / np.linalg.norm(x)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return value - rate * (size * x.reshape(value.shape) + decay * value)


def _random(rng: np.random.Generator, scale: float) -> dict[str, np.ndarray]:
    return {name: (rng.standard_normal(shape) * scale).astype(np.float32) for name, shape in SHAPES.items()}


SECTIONS = [
    OptimizerSection(),
    OptimizerSection(beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.5),  # eps as large as the gradients
    OptimizerSection(beta1=0.0, beta2=0.9, weight_decay=0.0),
    OptimizerSection(name="adamw_uncorrected"),
    OptimizerSection(name="sgd"),
    OptimizerSection(name="sgd", nesterov=True, momentum=0.5),
    OptimizerSection(name="lamb"),
    OptimizerSection(name="muon", momentum=0.95, nesterov=True),
    OptimizerSection(name="muon", momentum=0.5),
]


def _optimizer(
    parameters: dict[str, Parameter], section: OptimizerSection, factors: list[float] | None = None
) -> Optimizer:
    decays = [weight_decay(name, parameter.shape, section) for name, parameter in parameters.items()]
    return make_optimizer(Moved(parameters, section, factors or [1.0] * len(parameters), decays))


def test_every_name_of_the_configuration_has_an_optimizer_and_a_comparison() -> None:
    assert set(NAMES) == optimizers._OPTIMIZERS.keys() == {section.name for section in SECTIONS}


@pytest.mark.parametrize(
    "section",
    [pytest.param(each, marks=pytest.mark.slow if each.name in ("sgd", "lamb") else ()) for each in SECTIONS],
    ids=lambda section: f"{section.name}-{section.weight_decay}-{section.nesterov}",
)
def test_every_rule_equals_the_reference(section: OptimizerSection) -> None:
    rng = np.random.default_rng(0)
    weights, gradients = _random(rng, 1.0), [_random(rng, 1e-3) for _ in range(6)]
    rates = [0.0, 1e-2, 3e-2, 2e-2, 1e-2, 1e-3]
    parameters = {name: Parameter(Tensor(value), name=name) for name, value in weights.items()}
    optimizer = _optimizer(parameters, section)
    for step, rate in zip(gradients, rates, strict=True):
        optimizer(tuple(Tensor(value) for value in step.values()), Tensor(rate, ms.float32), None).asnumpy()
    expected = optimize(weights, gradients, rates, {"a.weight", "wide.weight"}, section)
    for name, value in expected.items():
        moved = np.abs(value - weights[name]).max()
        error = np.abs(parameters[name].asnumpy() - value).max()
        assert error <= 3e-5 * moved + 6e-8 * np.abs(value).max() * len(rates), name
    assert int(optimizer.state()["optimizer.step"].asnumpy()) == 6


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_is_not_ok_leaves_everything_and_factors_scale_the_rate(name: str) -> None:
    rng = np.random.default_rng(0)
    section = OptimizerSection(name=name, weight_decay=0.0, momentum=0.0)
    values, gradients = _random(rng, 1.0), _random(rng, 1e-3)
    parameters = {key: Parameter(Tensor(value), name=key) for key, value in values.items()}
    optimizer = _optimizer(parameters, section, [1.0, 0.5, 0.25, 0.0])
    given = tuple(Tensor(value) for value in gradients.values()), Tensor(1e-2, ms.float32)
    zeros = tuple(Tensor(0 * value) for value in gradients.values())
    for inputs, ok in ((given[0], True), (zeros, False), (given[0], True)):
        before = {key: p.asnumpy().copy() for key, p in {**parameters, **optimizer.state()}.items()}
        optimizer(inputs, given[1], Tensor(ok)).asnumpy()
        after = {key: p.asnumpy() for key, p in {**parameters, **optimizer.state()}.items()}
        changed = {key for key in before if not np.array_equal(before[key], after[key])}
        assert ok == ("a.weight" in changed)
        assert "wide.weight" not in changed
        if not ok:
            assert not changed
    moved = {key: np.abs(parameters[key].asnumpy() - value).mean() for key, value in values.items()}
    if name == "muon":  # both of these are AdamW's
        assert moved["grn.gamma"] == pytest.approx(0.5 * moved["a.bias"], rel=0.1)
    if name.startswith("adamw"):
        assert moved["a.bias"] == pytest.approx(0.5 * moved["a.weight"], rel=0.1)
        assert moved["grn.gamma"] == pytest.approx(0.25 * moved["a.weight"], rel=0.1)


def test_the_first_step_has_the_size_of_the_rate() -> None:
    """Without bias correction it is three times that (0.1 / sqrt(0.001))."""
    for name, size in (("adamw", 0.01), ("adamw_uncorrected", 0.01 * 0.1 / 0.001**0.5)):
        parameters = {"a.weight": Parameter(Tensor(np.zeros((3, 2), np.float32)), name="a.weight")}
        optimizer = _optimizer(parameters, OptimizerSection(name=name))
        optimizer((Tensor(np.full((3, 2), 1e-3, np.float32)),), Tensor(0.01, ms.float32), None).asnumpy()
        np.testing.assert_allclose(parameters["a.weight"].asnumpy(), -size, rtol=5e-4)


@pytest.mark.parametrize("variant", ["convnext_tiny", "convnextv2_atto"])
def test_matrices_and_kernels_decay_and_nothing_else(variant: str) -> None:
    shapes = parameter_shapes(VARIANTS[variant])
    decayed = {name for name, shape in shapes.items() if weight_decay(name, shape, OptimizerSection()) > 0}
    kinds = {".".join(part for part in name.split(".") if not part.isdigit()) for name in decayed}
    assert kinds == {
        "downsample_layers.weight",
        "stages.dwconv.weight",
        "stages.pwconv1.weight",
        "stages.pwconv2.weight",
        "head.weight",
    }
    assert all(len(shapes[name]) > 1 for name in decayed)


@pytest.mark.parametrize("variant", ["convnext_tiny", "convnextv2_atto"])
def test_muon_moves_the_matrices_of_hidden_layers_as_a_whole_and_nothing_else(variant: str) -> None:
    section, shapes = OptimizerSection(name="muon"), parameter_shapes(VARIANTS[variant])
    whole = {name for name, shape in shapes.items() if moves_as_a_whole(name, shape, section)}
    kinds = {".".join(part for part in name.split(".") if not part.isdigit()) for name in whole}
    assert kinds == {"downsample_layers.weight", "stages.pwconv1.weight", "stages.pwconv2.weight"}
    assert "downsample_layers.0.0.weight" not in whole
    assert not any(moves_as_a_whole(name, shape, OptimizerSection()) for name, shape in shapes.items())
    assert all(moves_as_a_whole(name, shape, OptimizerSection(name="lamb")) for name, shape in shapes.items())


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16), (1, 5), (6, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_muon_makes_steps_of_adamw_s_size_whatever_the_gradient_s(shape: tuple[int, ...], scale: float) -> None:
    gradient = (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)
    parameters = {"a.weight": Parameter(Tensor(np.zeros(shape, np.float32)), name="a.weight")}
    section = OptimizerSection(name="muon", weight_decay=0.0)
    _optimizer(parameters, section)((Tensor(gradient),), Tensor(0.01, ms.float32), None).asnumpy()
    moved = parameters["a.weight"].asnumpy().reshape(shape[0], -1)
    values = np.linalg.svd(moved, compute_uv=False) / (0.01 * 0.2 * np.sqrt(max(moved.shape)))
    assert 0.5 < values.min() <= values.max() < 1.25
    assert np.sum(moved * gradient.reshape(moved.shape)) < 0, "against the gradient"


def test_a_matrix_without_a_gradient_stays_where_it_is() -> None:
    parameters = {"a.weight": Parameter(Tensor(np.ones((3, 2), np.float32)), name="a.weight")}
    optimizer = _optimizer(parameters, OptimizerSection(name="muon", weight_decay=0.0))
    optimizer((Tensor(np.zeros((3, 2), np.float32)),), Tensor(0.01, ms.float32), None).asnumpy()
    np.testing.assert_array_equal(parameters["a.weight"].asnumpy(), 1.0)


def test_muon_without_matrices_is_adamw() -> None:
    """With four frozen stages only norm and head learn."""
    ends = []
    for name in ("adamw", "muon"):
        weights = {"norm.weight": np.ones(4, np.float32), "head.weight": np.ones((3, 4), np.float32)}
        parameters = {key: Parameter(Tensor(value), name=key) for key, value in weights.items()}
        gradients = tuple(Tensor(np.full_like(value, 1e-3)) for value in weights.values())
        _optimizer(parameters, OptimizerSection(name=name))(gradients, Tensor(0.01, ms.float32), None).asnumpy()
        ends.append([parameter.asnumpy() for parameter in parameters.values()])
    assert all(np.array_equal(one, other) for one, other in zip(*ends, strict=True))


def test_muon_keeps_no_second_moment_of_a_matrix() -> None:
    parameters = {name: Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in SHAPES.items()}
    optimizer = _optimizer(parameters, OptimizerSection(name="muon"))
    assert {name for name in optimizer.state() if "second" in name} == {
        "optimizer.second_moment.a.bias",
        "optimizer.second_moment.grn.gamma",
    }
    first, second = optimizer.moments().values()
    assert [each is None for each in first] == [False] * 4
    assert [each is None for each in second] == [True, False, False, True]


def test_the_state_names_every_moment_once() -> None:
    parameters = {name: Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in SHAPES.items()}
    state = _optimizer(parameters, OptimizerSection()).state()
    moments = {f"optimizer.{which}_moment.{name}" for which in ("first", "second") for name in SHAPES}
    assert state.keys() == {"optimizer.step", *moments}
