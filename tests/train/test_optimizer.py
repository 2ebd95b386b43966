"""AdamW against an independent reference in float64, and which parameters decay."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from convnext_imagenet.model.convnext import VARIANTS, parameter_shapes
from convnext_imagenet.train.config import OptimizerSection
from convnext_imagenet.train.optimizer import AdamW, is_decayed

SHAPES = {"a.weight": (7, 5), "a.bias": (7,), "grn.gamma": (1, 1, 1, 6), "wide.weight": (40, 3, 2, 2)}


def reference_adamw(
    weights: dict[str, np.ndarray],
    gradients: list[dict[str, np.ndarray]],
    rates: list[float],
    decayed: set[str],
    section: OptimizerSection,
) -> dict[str, np.ndarray]:
    """The loop of PyTorch's documentation of AdamW."""
    values = {name: value.astype(np.float64) for name, value in weights.items()}
    first = {name: np.zeros(value.shape) for name, value in weights.items()}
    second = {name: np.zeros(value.shape) for name, value in weights.items()}
    for t, (step, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for name, value in values.items():
            gradient = step[name].astype(np.float64)
            if name in decayed:
                value = value - rate * section.weight_decay * value
            first[name] = section.beta1 * first[name] + (1 - section.beta1) * gradient
            second[name] = section.beta2 * second[name] + (1 - section.beta2) * gradient**2
            mean = first[name] / (1 - section.beta1**t)
            variance = second[name] / (1 - section.beta2**t)
            values[name] = value - rate * mean / (np.sqrt(variance) + section.eps)
    return values


@pytest.mark.parametrize(
    "section",
    [
        OptimizerSection(),
        OptimizerSection(beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.5),  # eps as large as the gradients
        OptimizerSection(beta1=0.0, beta2=0.9, weight_decay=0.0),
    ],
)
def test_adamw_equals_the_reference(section: OptimizerSection) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    gradients = [
        {name: rng.standard_normal(shape).astype(np.float32) * 1e-3 for name, shape in SHAPES.items()} for _ in range(6)
    ]
    rates = [0.0, 1e-2, 3e-2, 2e-2, 1e-2, 1e-3]
    parameters = {name: Parameter(Tensor(value), name=name) for name, value in weights.items()}
    optimizer = AdamW(parameters, section)
    for step, rate in zip(gradients, rates, strict=True):
        optimizer(tuple(Tensor(value) for value in step.values()), Tensor(rate, ms.float32)).asnumpy()
    expected = reference_adamw(weights, gradients, rates, {"a.weight", "wide.weight"}, section)
    for name, value in expected.items():
        moved = np.abs(value - weights[name]).max()
        np.testing.assert_allclose(parameters[name].asnumpy(), value, rtol=0, atol=3e-5 * moved, err_msg=name)
    assert int(optimizer.state()["optimizer.step"].asnumpy()) == 6


def test_the_first_step_has_the_size_of_the_rate() -> None:
    """Without bias correction it would be a third of it (0.1 / sqrt(0.001))."""
    parameters = {"a.weight": Parameter(Tensor(np.zeros((3, 2), np.float32)), name="a.weight")}
    optimizer = AdamW(parameters, OptimizerSection())
    optimizer((Tensor(np.full((3, 2), 1e-3, np.float32)),), Tensor(0.01, ms.float32)).asnumpy()
    np.testing.assert_allclose(parameters["a.weight"].asnumpy(), -0.01, rtol=2e-5)


@pytest.mark.parametrize("variant", ["convnext_tiny", "convnextv2_atto"])
def test_matrices_and_kernels_decay_and_nothing_else(variant: str) -> None:
    shapes = parameter_shapes(VARIANTS[variant])
    decayed = {name for name, shape in shapes.items() if is_decayed(name, shape)}
    kinds = {".".join(part for part in name.split(".") if not part.isdigit()) for name in decayed}
    assert kinds == {
        "downsample_layers.weight",
        "stages.dwconv.weight",
        "stages.pwconv1.weight",
        "stages.pwconv2.weight",
        "head.weight",
    }
    assert all(len(shapes[name]) > 1 for name in decayed)


def test_the_state_names_every_moment_once() -> None:
    parameters = {name: Parameter(Tensor(np.ones(shape, np.float32)), name=name) for name, shape in SHAPES.items()}
    state = AdamW(parameters, OptimizerSection()).state()
    moments = {f"optimizer.{which}_moment.{name}" for which in ("first", "second") for name in SHAPES}
    assert state.keys() == {"optimizer.step", *moments}
