"""Weights that do not fit are refused whole, by a message that names both networks or lists every fault."""

from dataclasses import replace

import numpy as np
import pytest

from convnext_imagenet.model.convnext import VARIANTS, ConvNeXt, ConvNeXtConfig, parameter_shapes
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.weight_check import check_shapes, describe, recognise
from convnext_imagenet.model.weights import assign_parameters


def blank(config: ConvNeXtConfig) -> dict[str, np.ndarray]:
    """Arrays of the right shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in parameter_shapes(config).items()}


def refusal(arrays, config: ConvNeXtConfig) -> str:
    with pytest.raises(ModelError) as caught:
        check_shapes(arrays, config, "model.safetensors")
    return str(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_recognised_by_its_arrays(variant):
    config = replace(VARIANTS[variant], num_classes=10)
    found = recognise(blank(config))
    assert found is not None
    assert describe(found) == f"{variant} with 10 classes"
    check_shapes(blank(config), config, "model.safetensors")


@pytest.mark.parametrize(
    ("weights", "network"),
    [
        (VARIANTS["convnext_tiny"], VARIANTS["convnext_atto"]),
        (VARIANTS["convnext_atto"], VARIANTS["convnextv2_atto"]),
        (VARIANTS["convnext_tiny"], replace(VARIANTS["convnext_tiny"], num_classes=10)),
        (replace(VARIANTS["convnextv2_nano"], num_classes=100), VARIANTS["convnext_small"]),
    ],
    ids=["variant", "V1 and V2", "class count", "both"],
)
def test_weights_of_another_network_name_both_and_the_way_out(weights, network):
    message = refusal(blank(weights), network)
    assert f"weights of {weights.variant} with {weights.num_classes:,} classes, but" in message
    assert f"the network is {network.variant} with {network.num_classes:,} classes" in message
    assert "set model.variant and model.num_classes" in message


def test_a_network_of_no_table_is_described_by_its_depths_and_dims(make_config):
    assert describe(make_config()) == "ConvNeXt V1 (depths (1, 2, 1, 1), dims (8, 16, 24, 32)) with 5 classes"


def test_every_fault_is_listed(make_config):
    arrays = blank(make_config())
    for name in ("head.bias", "norm.bias", "norm.weight", "head.weight"):
        arrays.pop(name)
    arrays["adam_m.head.bias"] = np.zeros(5, np.float32)
    arrays["stages.0.0.gamma"] = np.zeros(9, np.float32)
    arrays["stages.1.0.gamma"] = np.zeros(16, np.float16)
    message = refusal(arrays, make_config())
    assert "4 missing (norm.weight, norm.bias, head.weight and 1 more)" in message
    assert "1 extra (adam_m.head.bias)" in message
    assert "1 of another shape (stages.0.0.gamma (9,) instead of (8,))" in message
    assert "1 not float32 (stages.1.0.gamma float16)" in message


def test_a_refused_assignment_changes_nothing(make_config, make_arrays):
    network = ConvNeXt(make_config())
    arrays = make_arrays(make_config())
    arrays.pop("head.bias")
    with pytest.raises(ModelError, match="the weights do not fit the network"):
        assign_parameters(network, arrays)
    assert all((parameter.asnumpy() == 0).all() for parameter in network.get_parameters())
