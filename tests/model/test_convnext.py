"""Variants by their exact sizes; the network against the float64 reference, forward and backward; its start."""

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, ops

from convnext_imagenet.model.convnext import (
    VARIANTS,
    ConvNeXt,
    ConvNeXtConfig,
    block_count,
    drop_path_rates,
    init_parameters,
    parameter_count,
    parameter_shapes,
)
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.weights import assign_parameters

PARAMETERS = {
    "convnext_atto": 3_695_520,
    "convnext_femto": 5_217_784,
    "convnext_pico": 9_045_672,
    "convnext_nano": 15_593_560,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "convnext_xlarge": 350_196_968,
    "convnextv2_atto": 3_708_400,
    "convnextv2_femto": 5_233_240,
    "convnextv2_pico": 9_066_280,
    "convnextv2_nano": 15_623_800,
    "convnextv2_tiny": 28_635_496,
    "convnextv2_base": 88_717_800,
    "convnextv2_large": 197_956_840,
    "convnextv2_huge": 660_289_640,
}


def network_with(config: ConvNeXtConfig, arrays) -> ConvNeXt:
    network = ConvNeXt(config)
    assign_parameters(network, arrays)
    return network


def images(n: int, height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, height, width, 3)).astype(np.float32)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_every_variant_has_a_published_size():
    assert {name: parameter_count(config) for name, config in VARIANTS.items()} == PARAMETERS


def test_every_variant_is_listed_under_its_own_name():
    assert [config.variant for config in VARIANTS.values()] == list(VARIANTS)


@pytest.mark.parametrize("variant", ["convnext_atto", "convnext_tiny", "convnextv2_atto"])
def test_the_network_has_the_stated_parameters(variant):
    network = ConvNeXt(VARIANTS[variant])
    found = {name: tuple(parameter.shape) for name, parameter in network.parameters_and_names()}
    assert found == parameter_shapes(VARIANTS[variant])
    assert sum(parameter.size for parameter in network.trainable_params()) == PARAMETERS[variant]


def test_parameters_carry_facebooks_names(config):
    shapes = parameter_shapes(config)
    assert shapes["downsample_layers.0.0.weight"] == (8, 3, 4, 4)
    assert shapes["downsample_layers.2.1.weight"] == (24, 16, 2, 2)
    assert shapes["stages.1.1.dwconv.weight"] == (16, 1, 7, 7)
    assert shapes["stages.3.0.pwconv1.weight"] == (128, 32)
    assert ("stages.0.0.gamma" in shapes) != config.grn
    assert (shapes.get("stages.0.0.grn.beta") == (1, 1, 1, 32)) == config.grn
    assert all(parameter.name == name for name, parameter in ConvNeXt(config).parameters_and_names())


def test_features_and_logits_equal_the_reference(config, make_arrays, reference):
    """Rows or columns are left over before three of four stages; the next tests have whole patches."""
    arrays, x = make_arrays(config), images(2, 52, 71)
    network = network_with(config, arrays)

    def both(x_NHWC):
        return network.features(x_NHWC), network(x_NHWC)

    features_NC, logits_NK = (found.asnumpy() for found in mindspore.jit(both)(Tensor(x)))
    assert relative_error(features_NC, reference.features(x, arrays, config.depths)) < 1e-5
    assert relative_error(logits_NK, reference.logits(x, arrays, config.depths)) < 1e-5


def test_keep_scales_the_branch_of_one_sample_and_block(config, make_arrays, reference):
    arrays, x = make_arrays(config), images(3, 32, 32)
    keep_NB = np.ones((3, block_count(config)), np.float32)
    keep_NB[0, 1], keep_NB[1, 4], keep_NB[2, 0] = 0.0, 1.25, 0.0
    network = network_with(config, arrays)
    found = network(Tensor(x), Tensor(keep_NB)).asnumpy()
    assert relative_error(found, reference.logits(x, arrays, config.depths, keep_NB)) < 1e-5
    kept = network(Tensor(x), Tensor(np.ones_like(keep_NB))).asnumpy()
    assert relative_error(kept, reference.logits(x, arrays, config.depths)) < 1e-5


def test_gradients_equal_finite_differences_of_the_reference(config, make_arrays, reference):
    arrays, x = make_arrays(config), images(2, 32, 32)
    keep_NB = np.array([[1.0, 0.0, 1.25, 1.0, 1.0], [1.25, 1.0, 0.0, 1.0, 1.5]], np.float32)
    weights_NK = np.random.default_rng(2).standard_normal((2, config.num_classes)).astype(np.float32)
    found = gradients(network_with(config, arrays), x, keep_NB, weights_NK)

    def loss(values):
        return float((reference.logits(x, values, config.depths, keep_NB) * weights_NK).sum())

    rng, step = np.random.default_rng(3), 1e-5
    for name, array in arrays.items():
        largest = np.abs(found[name]).max()
        for index in (int(np.abs(found[name]).argmax()), int(rng.integers(array.size))):
            sides = []
            for sign in (1, -1):
                moved = array.astype(np.float64)
                moved.reshape(-1)[index] += sign * step
                sides.append(loss({**arrays, name: moved}))
            expected = (sides[0] - sides[1]) / (2 * step)
            assert found[name].reshape(-1)[index] == pytest.approx(expected, rel=1e-4, abs=1e-4 * largest), name


@pytest.mark.slow
def test_no_gradient_reaches_frozen_stages_and_the_rest_has_its_own(make_config, make_arrays):
    config = make_config()
    arrays, x = make_arrays(config), images(2, 32, 32)
    keep_NB = np.ones((2, sum(config.depths)), np.float32)
    weights_NK = np.random.default_rng(2).standard_normal((2, config.num_classes)).astype(np.float32)
    frozen = ConvNeXt(config, frozen_stages=2)
    assign_parameters(frozen, arrays)
    expected, found = (gradients(net, x, keep_NB, weights_NK) for net in (network_with(config, arrays), frozen))
    for name, gradient in found.items():
        is_frozen = name.startswith(("downsample_layers.0", "downsample_layers.1", "stages.0", "stages.1"))
        np.testing.assert_allclose(gradient, 0 if is_frozen else expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


def gradients(network, x, keep_NB, weights_NK) -> dict[str, np.ndarray]:
    """The gradient of sum(logits * weights) by name, from one compiled step."""

    def loss(x_NHWC, keep, weights):
        return ops.sum(network(x_NHWC, keep) * weights)

    parameters = dict(network.parameters_and_names())
    step = mindspore.jit(mindspore.value_and_grad(loss, None, list(parameters.values())))
    _, found = step(Tensor(x), Tensor(keep_NB), Tensor(weights_NK))
    return {name: gradient.asnumpy() for name, gradient in zip(parameters, found, strict=True)}


def test_a_block_starts_as_the_identity_in_v1(make_config, make_arrays, reference):
    config = make_config()
    arrays = init_parameters(config, seed=0)
    x_NCHW = np.random.default_rng(0).standard_normal((1, 8, 8, 8))
    assert relative_error(reference.block(x_NCHW, arrays, "stages.0.0"), x_NCHW) < 1e-5


def test_initial_values(config):
    arrays = init_parameters(config, seed=0)
    assert {name: array.shape for name, array in arrays.items()} == parameter_shapes(config)
    for name, array in arrays.items():
        assert array.dtype == np.float32
        if name.endswith("weight") and array.ndim > 1:
            tolerance = 4 * 0.02 / np.sqrt(array.size)
            assert abs(array.mean()) < tolerance, name
            assert array.std() == pytest.approx(0.02, abs=tolerance), name
        elif name.endswith("weight"):
            assert (array == 1).all(), name
        elif name.endswith(".gamma") and not config.grn:
            assert (array == np.float32(1e-6)).all(), name
        else:
            assert (array == 0).all(), name


def test_head_init_scale_scales_the_head_alone():
    plain = ConvNeXtConfig("small", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=5)
    scaled = ConvNeXtConfig("small", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=5, head_init_scale=0.001)
    expected, found = init_parameters(plain, 0), init_parameters(scaled, 0)
    np.testing.assert_allclose(found.pop("head.weight"), 0.001 * expected.pop("head.weight"), rtol=1e-6)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_initial_values_depend_on_the_seed_and_the_name_alone(make_config):
    first, again, other = (init_parameters(make_config(), seed) for seed in (7, 7, 8))
    wider = init_parameters(make_config(num_classes=9), 7)
    name = "stages.2.0.pwconv1.weight"
    assert (first[name] == again[name]).all()
    assert (first[name] == wider[name]).all()
    assert (first[name] != other[name]).any()
    assert (first["stages.1.0.pwconv1.weight"] != first["stages.1.1.pwconv1.weight"]).any()


def test_drop_path_rises_linearly_over_all_blocks():
    assert drop_path_rates(VARIANTS["convnext_tiny"]) == pytest.approx([0.1 * block / 17 for block in range(18)])
    assert drop_path_rates(VARIANTS["convnextv2_atto"]) == (0.0,) * 12


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depths": (1, 1, 1)}, "depths is (1, 1, 1)"),
        ({"dims": (8, 16, 24, 0)}, "dims is (8, 16, 24, 0)"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0"),
    ],
)
def test_a_configuration_of_no_network_is_refused(wrong, message):
    right = {"variant": "small", "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    with pytest.raises(ModelError) as caught:
        ConvNeXtConfig(**{**right, **wrong})
    assert message in str(caught.value)
