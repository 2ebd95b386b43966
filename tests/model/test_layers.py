"""Each layer against the float64 reference, and the cases where a careless one fails."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, ops

from convnext_imagenet.model.layers import (
    DepthwiseConv,
    Gelu,
    GlobalResponseNorm,
    LayerNorm,
    Linear,
    PatchConv,
    Residual,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def filled(cell, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fill the cell's parameters with random values and return them by name."""
    values = {
        name: rng.standard_normal(parameter.shape).astype(np.float32) for name, parameter in cell.parameters_and_names()
    }
    for name, parameter in cell.parameters_and_names():
        parameter.set_data(Tensor(values[name]))
    return values


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def assert_close(found: Tensor, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.asnumpy() - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("size_px", [9, 3, 1], ids=["larger", "smaller", "one pixel"])
def test_depthwise_is_a_padded_7x7_convolution(size_px, rng, reference):
    cell = DepthwiseConv(5)
    values, x_NHWC = filled(cell, rng), random(rng, 2, size_px, size_px + 2, 5)
    expected = reference.depthwise(x_NHWC.transpose(0, 3, 1, 2), values["weight"], values["bias"])
    assert_close(cell(Tensor(x_NHWC)), expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("size", [2, 4])
def test_patch_conv_is_a_strided_convolution_without_padding(size, rng, reference):
    cell = PatchConv(3, 6, size)
    values, x_NHWC = filled(cell, rng), random(rng, 2, 9, 14, 3)
    expected = reference.conv(x_NHWC.transpose(0, 3, 1, 2), values["weight"], values["bias"], size)
    assert_close(cell(Tensor(x_NHWC)), expected.transpose(0, 2, 3, 1))


def test_linear_is_over_the_last_axis(rng):
    cell = Linear(4, 7)
    values, x_NHWC = filled(cell, rng), random(rng, 2, 3, 5, 4)
    assert_close(cell(Tensor(x_NHWC)), x_NHWC @ values["weight"].T + values["bias"])


def test_layer_norm_uses_epsilon_1e_6(rng, reference):
    cell = LayerNorm(6)
    values, x = filled(cell, rng), random(rng, 2, 3, 3, 6) * 1e-3  # so small that another epsilon shows
    assert_close(cell(Tensor(x)), reference.layer_norm(x.astype(np.float64), values["weight"], values["bias"]))


def test_gelu_is_exact_and_not_the_tanh_form(reference):
    x = np.linspace(-6, 6, 1001)
    tanh_form = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    found = Gelu()(Tensor(x.astype(np.float32))).asnumpy()
    assert np.abs(found - reference.gelu(x)).max() < 1e-6
    assert np.abs(tanh_form - reference.gelu(x)).max() > 1e-4


def test_grn_equals_the_paper(rng, reference):
    cell = GlobalResponseNorm(6)
    values, x = filled(cell, rng), random(rng, 2, 4, 3, 6)
    assert_close(cell(Tensor(x)), reference.grn(x.astype(np.float64), values["gamma"], values["beta"]))


def test_grn_keeps_the_gradient_of_a_dead_channel_finite(rng):
    cell = GlobalResponseNorm(3)
    filled(cell, rng)
    x = random(rng, 1, 2, 2, 3)
    x[..., 1] = 0.0

    def total(value):
        return ops.sum(cell(value))

    gradient = mindspore.grad(total)(Tensor(x)).asnumpy()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("make", [GlobalResponseNorm, LayerNorm])
def test_norms_compute_in_float32(make, rng):
    cell = make(4)
    filled(cell, rng)
    x = (random(rng, 1, 3, 3, 4) * 1000).astype(np.float16)  # its squares overflow float16
    found = cell(Tensor(x))
    assert found.dtype == mindspore.float16
    in_float32 = cell(Tensor(x.astype(np.float32))).asnumpy()
    np.testing.assert_array_equal(found.asnumpy(), in_float32.astype(np.float16))


@pytest.mark.parametrize("with_gamma", [True, False])
@pytest.mark.parametrize("with_keep", [True, False])
def test_residual_scales_by_channel_and_by_sample(with_gamma, with_keep, rng):
    x, branch, gamma_C = random(rng, 2, 3, 3, 4), random(rng, 2, 3, 3, 4), random(rng, 4)
    keep_N = np.array([0.0, 1.25], np.float32)
    scale = (gamma_C if with_gamma else 1.0) * (keep_N[:, None, None, None] if with_keep else 1.0)
    found = Residual()(
        Tensor(x), Tensor(branch), Tensor(gamma_C) if with_gamma else None, Tensor(keep_N) if with_keep else None
    )
    assert_close(found, x + branch * scale)
