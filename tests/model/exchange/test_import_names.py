"""Other programs' tensors: recognised by their names, complete or refused, and computing what they computed there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convnext_imagenet.model.convnext import VARIANTS, ConvNeXtConfig, parameter_shapes
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange import import_names
from convnext_imagenet.model.exchange.import_names import UNNAMED, recognise_scheme, translate
from convnext_imagenet.model.exchange.naming import SCHEMES, export_arrays, scheme_named
from convnext_imagenet.model.exchange.source_file import read_source
from convnext_imagenet.model.transform import IMAGENET_MEAN, IMAGENET_STD

# Made by timm and transformers themselves; `python tests/parity/make_golden.py` writes them again.
GOLDEN = Path(__file__).parent / "golden"
LOGITS = json.loads((GOLDEN / "logits.json").read_text())
RNG = np.random.default_rng(0)
SQUARES_NHWC = RNG.integers(0, 192, (2, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
PIXELS_NHWC = SQUARES_NHWC + RNG.integers(0, 64, SQUARES_NHWC.shape, dtype=np.uint8)


def translated(tensors, scheme=None, **options):
    return translate(tensors, scheme or recognise_scheme(tensors, "file"), "file", **options)


@pytest.mark.parametrize("name", LOGITS)
def test_a_file_of_another_program_gives_its_logits(name, reference):
    tensors, _ = read_source(GOLDEN / f"{name}.safetensors").choose(None)
    made = translated(tensors)
    assert (made.scheme.name, made.config.grn, made.ignored) == (name[:-3], name.endswith("v2"), 0)
    assert made.config.depths == (1, 2, 1, 1)
    assert made.config.dims == (8, 16, 24, 32)
    x_NHWC = (PIXELS_NHWC / 255 - IMAGENET_MEAN) / IMAGENET_STD
    found = reference.logits(x_NHWC, made.arrays, made.config.depths)
    expected = np.array(LOGITS[name])
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 0.1, "the two images must differ, or the comparison proves little"


@pytest.fixture
def config() -> ConvNeXtConfig:
    return replace(VARIANTS["convnext_tiny"], dims=(8, 16, 24, 32), num_classes=5)


@pytest.fixture
def ours(config, make_arrays) -> dict[str, np.ndarray]:
    return make_arrays(config)


@pytest.mark.parametrize("scheme", SCHEMES, ids=[f"{s.name}-{n}" for n, s in enumerate(SCHEMES)])
def test_names_alone_tell_the_program(scheme, ours, config):
    if scheme.name == "openclip":
        ours = {name: array for name, array in ours.items() if not name.startswith("head.")}
    theirs = {scheme.theirs(name): array for name, array in ours.items()}
    assert recognise_scheme(theirs, "file").name == scheme.name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_is_told_by_shapes_for_any_count_of_classes(variant, monkeypatch):
    config = replace(VARIANTS[variant], num_classes=21841)
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in parameter_shapes(config).items()}
    monkeypatch.setattr(import_names, "_as_float32", lambda name, array, what: array)  # gigabytes otherwise
    assert translated(arrays).config == config


def test_a_network_in_no_table_has_no_variant(ours):
    made = translated(ours)
    assert (made.config.variant, made.config.depths, made.config.num_classes) == (UNNAMED, (3, 3, 9, 3), 5)


def test_half_precision_becomes_float32_exactly(ours):
    halves = {name: array.astype(np.float16) for name, array in ours.items()}
    made = translated(halves)
    assert all(array.dtype == np.float32 for array in made.arrays.values())
    assert all((made.arrays[name] == half).all() for name, half in halves.items())


def example_checkpoint(ours) -> dict[str, np.ndarray]:
    """What the MindSpore example saves: the network, Adam's moments of every parameter, and scalars."""
    network = {scheme_named("example").theirs(name): array for name, array in ours.items()}
    moments = {f"{kind}.{name}": np.zeros_like(a) for kind in ("adam_m", "adam_v") for name, a in network.items()}
    scalars = {
        "learning_rate": np.float32(4e-3),
        "global_step": np.array([160000], np.int32),
        "scale_sense": np.float32(1024),
        "current_iterator_step": np.int32(3),
        "last_overflow_iterator_step": np.int32(0),
        "beta1_power": np.float32(0.9),
    }
    return network | moments | {name: np.asarray(value) for name, value in scalars.items()}


def test_the_examples_optimizer_state_and_scalars_are_ignored(ours):
    made = translated(example_checkpoint(ours))
    assert made.scheme.name == "example"
    assert (len(made.arrays), made.ignored) == (182, 2 * 182 + 6)
    assert all(made.arrays[name].tobytes() == array.tobytes() for name, array in ours.items())


def test_mindcvs_moments_are_ignored(ours):
    network = {scheme_named("mindcv").theirs(name): array for name, array in ours.items()}
    moments = {f"{kind}.{name}": array for kind in ("moment1", "moment2") for name, array in network.items()}
    made = translated({**moments, **network})
    assert (made.scheme.name, len(made.arrays), made.ignored) == ("mindcv", 182, 364)
    assert made.arrays["stages.2.8.gamma"].tobytes() == ours["stages.2.8.gamma"].tobytes()


def refusal(tensors, **options) -> str:
    with pytest.raises(ModelError) as caught:
        translated(tensors, **options)
    message = str(caught.value)
    assert message.startswith("file: ")
    assert "\n" not in message
    return message


def test_what_is_missing_too_many_and_misshapen_is_listed_as_the_file_names_it(ours, config):
    theirs = export_arrays(ours, config, scheme_named("timm"))
    del theirs["stages.1.blocks.2.norm.bias"]
    theirs["stages.1.blocks.2.attn.weight"] = np.zeros(3, np.float32)
    theirs["head.fc.weight"] = theirs["head.fc.weight"][:, :30]
    message = refusal(theirs)
    assert "1 missing (stages.1.blocks.2.norm.bias)" in message
    assert "1 unknown (stages.1.blocks.2.attn.weight)" in message
    assert "1 of another shape (head.fc.weight (5, 30) instead of (5, 32))" in message
    assert "of 182 parameters" in message


def test_v2_weights_with_layer_scale_are_no_network(ours):
    ours["stages.0.0.grn.gamma"] = np.zeros((1, 1, 1, 32), np.float32)
    assert "unknown (stages.0.0.gamma" in refusal(ours)


def test_optimizer_state_is_an_error_where_no_program_keeps_it(ours):
    assert "1 unknown (adam_m.head.bias)" in refusal({**ours, "adam_m.head.bias": np.zeros(5, np.float32)})


def test_a_residual_network_is_no_convnext():
    names = ["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "fc.weight", "norm.weight", "head.bias"]
    message = refusal({name: np.zeros(3, np.float32) for name in names})
    assert (
        "not a ConvNeXt with names of facebook, timm, transformers, dinov3, mindcv, example, openclip; it holds"
        in message
    )
    assert "conv1.weight, bn1.running_mean, layer1.0.conv1.weight and 3 more" in message
    assert "it holds no tensors" in refusal({})


def test_pretraining_in_the_sparse_layout_is_named_as_such():
    message = refusal({"encoder.downsample_layers.1.1.kernel": np.zeros((4, 8, 16)), "mask_token": np.zeros((1, 8))})
    assert "pre-training checkpoint of ConvNeXt V2 (FCMAE: it holds encoder.downsample_layers.1.1.kernel)" in message


def test_another_program_than_expected_is_refused(ours):
    with pytest.raises(ModelError, match="file: its names are Facebook's, not those of timm; leave out --from"):
        recognise_scheme(ours, "file", "timm")
    assert recognise_scheme(ours, "file", "facebook").name == "facebook"


def test_part_of_a_network_is_refused(ours):
    part = {name: array for name, array in ours.items() if not name.startswith("stages.3.")}
    assert "no first block in stage 3 of 0 to 3" in refusal(part)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(ours, value):
    ours["norm.bias"][3] = value
    assert "norm.bias holds NaN or infinity" in refusal(ours)


@pytest.mark.filterwarnings("error")
def test_a_float64_beyond_float32_is_no_diverged_training(ours):
    ours["norm.bias"] = ours["norm.bias"].astype(np.float64)
    ours["norm.bias"][3] = 1e300
    assert "norm.bias holds float64 values that float32 cannot hold" in refusal(ours)


def test_integers_are_no_weights(ours):
    ours["norm.bias"] = ours["norm.bias"].astype(np.int8)
    assert "norm.bias is int8" in refusal(ours)


def test_without_a_classifier_a_network_has_none(ours, config):
    openclip = scheme_named("openclip")
    theirs = {openclip.theirs(name): array for name, array in ours.items() if not name.startswith("head.")}
    theirs |= {"visual.head.proj.weight": np.zeros((64, 32), np.float32), "logit_scale": np.float32(1)[None],
               "transformer.resblocks.0.ln_1.weight": np.ones(8, np.float32)}  # fmt: skip
    bare = translated(theirs)
    assert (bare.config.num_classes, bare.outputs, "head.weight" in bare.arrays) == (0, None, False)
    made = translated(theirs, new_head=9)
    assert (made.config.num_classes, made.ignored, made.is_head_new) == (9, 3, True)
    assert made.arrays["head.weight"].shape == (9, 32)
    assert made.arrays["head.weight"].std() == pytest.approx(0.02, rel=0.3)
    assert not made.arrays["head.bias"].any()
    assert made.arrays["norm.bias"].tobytes() == ours["norm.bias"].tobytes()


def test_a_new_classifier_replaces_the_one_of_the_file(ours, config):
    theirs = export_arrays(ours, config, scheme_named("timm")) | {
        "head.pre_logits.fc.weight": np.ones((4, 4), np.float32)
    }
    assert "unknown (head.pre_logits.fc.weight)" in refusal(theirs)
    made = translated(theirs, new_head=3)
    assert (made.config.num_classes, made.ignored) == (3, 3)
    assert made.arrays["head.bias"].tolist() == [0, 0, 0]


def test_pretraining_that_timm_has_converted_gets_a_new_norm_with_its_classifier(ours):
    theirs = {name: array for name, array in ours.items() if not name.startswith(("head.", "norm."))}
    made = translated(theirs, new_head=3)
    assert made.arrays["norm.weight"].tolist() == [1.0] * 32
    assert any("no last norm" in remark for remark in made.remarks)
