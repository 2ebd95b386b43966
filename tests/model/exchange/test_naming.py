"""Names of other programs: one table for both ways, every variant, no name lost and no bit changed."""

import numpy as np
import pytest

from convnext_imagenet.model.convnext import VARIANTS, parameter_shapes
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.naming import SCHEMES, export_arrays, import_arrays, scheme_named

IDS = [f"{scheme.name}{number}" for number, scheme in enumerate(SCHEMES)]


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_has_one_name_and_comes_back_by_it(variant, scheme):
    config = VARIANTS[variant]
    if config.grn and scheme.name == "mindcv":
        with pytest.raises(KeyError):
            scheme.theirs("stages.0.0.grn.gamma")
        return
    theirs = [scheme.theirs(name) for name in parameter_shapes(config)]
    assert len(set(theirs)) == len(theirs)
    assert [scheme.ours(name) for name in theirs] == list(parameter_shapes(config))


@pytest.mark.parametrize("name", ["facebook", "timm"])
@pytest.mark.parametrize("variant", ["convnext_atto", "convnextv2_atto", "convnext_tiny", "convnextv2_tiny"])
def test_arrays_go_out_and_come_back_bit_by_bit(variant, name):
    config, scheme = VARIANTS[variant], scheme_named(name)
    rng = np.random.default_rng(0)
    ours = {name: rng.standard_normal(shape, np.float32) for name, shape in parameter_shapes(config).items()}
    back, others = import_arrays(export_arrays(ours, config, scheme), scheme)
    assert others == []
    assert list(back) == list(ours)
    assert all(
        back[name].tobytes() == array.tobytes() and back[name].shape == array.shape for name, array in ours.items()
    )


@pytest.mark.parametrize(
    ("variant", "name", "theirs", "shape"),
    [
        ("convnext_atto", "stages.2.5.pwconv1.weight", "stages.2.blocks.5.mlp.fc1.weight", (640, 160, 1, 1)),
        ("convnextv2_nano", "stages.0.1.pwconv2.weight", "stages.0.blocks.1.mlp.fc2.weight", (80, 320, 1, 1)),
        ("convnext_tiny", "stages.0.0.pwconv1.weight", "stages.0.blocks.0.mlp.fc1.weight", (384, 96)),
        ("convnextv2_tiny", "stages.3.2.grn.beta", "stages.3.blocks.2.mlp.grn.bias", (3072,)),
        ("convnext_tiny", "downsample_layers.3.1.bias", "stages.3.downsample.1.bias", (768,)),
        ("convnext_tiny", "norm.weight", "head.norm.weight", (768,)),
    ],
)
def test_names_and_shapes_are_timms(variant, name, theirs, shape):
    config, timm = VARIANTS[variant], scheme_named("timm")
    assert timm.theirs(name) == theirs
    assert timm.their_shape(name, parameter_shapes(config)[name], config) == shape


@pytest.mark.parametrize(
    ("scheme", "ours", "theirs"),
    [
        ("transformers", "head.bias", "classifier.bias"),
        ("transformers", "stages.1.2.gamma", "convnext.encoder.stages.1.layers.2.layer_scale_parameter"),
        ("mindcv", "downsample_layers.2.0.weight", "feature.4.0.gamma"),
        ("mindcv", "downsample_layers.0.1.bias", "feature.0.1.beta"),
        ("mindcv", "stages.3.1.norm.bias", "feature.7.1.norm.beta"),
        ("mindcv", "stages.0.1.gamma", "feature.1.1.gamma_"),
        ("mindcv", "downsample_layers.0.0.weight", "feature.0.0.weight"),
        ("mindcv", "downsample_layers.3.1.bias", "feature.6.1.bias"),
        ("mindcv", "stages.2.8.dwconv.weight", "feature.5.8.dwconv.weight"),
        ("mindcv", "stages.2.8.pwconv1.weight", "feature.5.8.pwconv1.weight"),
        ("mindcv", "stages.2.8.pwconv2.bias", "feature.5.8.pwconv2.bias"),
        ("mindcv", "head.weight", "classifier.weight"),
        ("example", "downsample_layers.1.0.bias", "model.downsample_layers.1.0.beta"),
        ("example", "downsample_layers.1.1.bias", "model.downsample_layers.1.1.bias"),
        ("example", "head.weight", "model.head.weight"),
        ("mindcv", "norm.weight", "norm.gamma"),
        ("example", "stages.0.0.gamma", "model.stages.0.0.gamma"),
        ("example", "stages.0.0.norm.weight", "model.stages.0.0.norm.gamma"),
        ("openclip", "norm.bias", "visual.trunk.head.norm.bias"),
    ],
)
def test_names_are_those_of_each_program(scheme, ours, theirs):
    assert scheme_named(scheme).theirs(ours) == theirs
    assert scheme_named(scheme).ours(theirs) == ours


def test_what_is_no_parameter_has_no_name_of_ours():
    facebook = scheme_named("facebook")
    for name in (
        "stages.0.07.gamma",
        "stages.4.0.gamma",
        "stages.0.0.gamma.weight",
        "layer1.0.conv1.weight",
        "",
        "head",
    ):
        assert facebook.ours(name) is None
    assert import_arrays({"head.bias": np.zeros(3), "fc.bias": np.zeros(3)}, facebook)[1] == ["fc.bias"]


def test_a_parameter_that_stands_there_twice_is_taken_once_and_told():
    twice = {"head.bias": np.zeros(3), "module.head.bias": np.ones(3)}
    found, others = import_arrays(twice, scheme_named("facebook"))
    assert found["head.bias"].tolist() == [0, 0, 0]
    assert others == ["module.head.bias"]


def test_a_wrapped_model_keeps_its_names():
    assert scheme_named("facebook").ours("module.stages.0.0.gamma") == "stages.0.0.gamma"


def test_an_unknown_program_is_refused_with_those_that_are_known():
    with pytest.raises(
        ModelError, match="no naming scheme 'keras' is known; choose one of facebook, timm, transformers, dinov3"
    ):
        scheme_named("keras")
