"""Configurations beside weights that state another network or other pixels: computed as stated, or refused.

Each row changes one value. A row without a reason must give the stated function; no row may give the usual one.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from convnext_imagenet.model.convnext import ConvNeXt, ConvNeXtConfig, init_parameters
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.foreign_network import read_stated
from convnext_imagenet.model.exchange.foreign_preprocessing import find_transform
from convnext_imagenet.model.exchange.import_names import recognise_scheme, translate
from convnext_imagenet.model.exchange.naming import SCHEMES, export_arrays, scheme_named
from convnext_imagenet.model.exchange.wrappers import named_sets, unwrap
from convnext_imagenet.model.weights import assign_parameters

CONFIG = ConvNeXtConfig("small", (1, 2, 1, 1), (8, 16, 24, 32), num_classes=5)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PRETRAINED = {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bicubic", "mean": MEAN, "std": STD}
TIMM = {"architecture": "convnext_x", "num_classes": 5, "global_pool": "avg", "pretrained_cfg": PRETRAINED}
HF = {"model_type": "convnext", "num_channels": 3, "patch_size": 4, "num_stages": 4, "hidden_act": "gelu",
      "layer_norm_eps": 1e-12, "depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32],
      "id2label": {str(n): f"LABEL_{n}" for n in range(5)}}  # fmt: skip
PROCESSOR = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}, "crop_pct": 0.875,
             "resample": 3, "image_mean": MEAN, "image_std": STD}  # fmt: skip


@pytest.fixture
def imported(tmp_path, make_arrays):
    """A function: scheme, config.json, preprocessor -> the network and its transform."""

    def run(scheme: str, config: dict, processor: dict | None = None):
        (tmp_path / "config.json").write_text(json.dumps(config))
        if processor is not None:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
        tensors = export_arrays(make_arrays(CONFIG), CONFIG, scheme_named(scheme))
        found = recognise_scheme(tensors, "file")
        made = translate(tensors, found, "file", stated=read_stated(tmp_path / "w", found))
        return made.config, find_transform(tmp_path / "w", found.name, made.outputs)[0]

    return run


ALTERED_TIMM = [
    ({"model_args": {"act_layer": "gelu_tanh"}}, ("activation", "gelu_tanh")),
    ({"model_args": {"norm_eps": 1e-5}}, ("norm_epsilon", 1e-5)),
    (
        {"architecture": "test_convnext", "model_args": {"depths": [1, 2, 1, 1], "dims": [8, 16, 24, 32]}},
        ("activation", "gelu_tanh"),
    ),
    ({"architecture": "convnext_xxlarge"}, r"its depths are \(1, 2, 1, 1\), but config.json"),
    ({"architecture": "convnext_tiny"}, "depths"),
    ({"architecture": "resnet50"}, "no ConvNeXt"),
    ({"model_args": {"use_grn": True}}, "has no global response normalisation"),
    ({"model_args": {"ls_init_value": None}}, "states a network without it"),
    ({"model_args": {"num_classes": 10}}, "states 10"),
    ({"model_args": {"head_hidden_size": 64}}, "states a hidden layer"),
    ({"model_args": {"act_layer": "silu"}}, "activation is 'silu'"),
    ({"model_args": {"kernel_sizes": [7, 5, 5, 3]}}, "kernel_sizes"),
    ({"model_args": {"stem_type": "overlap"}}, "stem_type"),
    ({"model_args": {"head_norm_first": True}}, "head_norm_first"),
    ({"model_args": {"norm_layer": "rmsnorm2d"}}, "norm_layer"),
    ({"model_args": {"output_stride": 16}}, "output_stride"),
    ({"model_args": {"in_chans": 1}}, "in_chans"),
    ({"model_args": {"depths": [1, 1, 1, 1]}}, "depths"),
    ({"model_args": {"something_new": 2}}, "something_new"),
    ({"global_pool": "max"}, "global_pool"),
    ({"num_classes": 1000}, "has 5 outputs"),
    ({"pretrained_cfg": PRETRAINED | {"mean": [0.5] * 3}}, ("mean", (0.5, 0.5, 0.5))),
    ({"pretrained_cfg": PRETRAINED | {"interpolation": "bilinear"}}, ("interpolation", "bilinear")),
    ({"pretrained_cfg": PRETRAINED | {"interpolation": "lanczos"}}, "interpolation"),
    ({"pretrained_cfg": PRETRAINED | {"crop_mode": "border"}}, "border"),
    ({"pretrained_cfg": PRETRAINED | {"input_size": [1, 224, 224]}}, "1 channels"),
    ({"pretrained_cfg": PRETRAINED | {"tag": "clip_laion2b"}}, ("num_classes", 5)),  # its bias: fine-tuned
]
ALTERED_HF = [
    ({"hidden_act": "gelu_new"}, {}, ("activation", "gelu_tanh")),
    ({"hidden_act": "quick_gelu"}, {}, "quick_gelu"),
    ({"layer_norm_eps": 1e-5}, {}, ("head_norm_epsilon", 1e-5)),
    ({"layer_norm_eps": 0}, {}, "epsilon"),
    ({"num_channels": 1}, {}, "num_channels"),
    ({"patch_size": 2}, {}, "patch_size"),
    ({"hidden_sizes": [8, 16, 24, 48]}, {}, "dims"),
    ({"model_type": "resnet"}, {}, "model_type"),
    ({"model_type": "convnextv2"}, {}, "has no global response normalisation"),
    ({"id2label": {str(n): f"class {n}" for n in range(4)}}, {}, "has 5 outputs"),
    ({}, {"do_rescale": False}, "do_rescale"),
    ({}, {"rescale_factor": 1 / 127.5}, "rescale_factor"),
    ({}, {"resample": 0}, "KeyError"),
    ({}, {"image_mean": [0.5] * 3}, ("mean", (0.5, 0.5, 0.5))),
    ({}, {"size": {"shortest_edge": 384}}, ("mode", "squash")),
    ({}, {"do_center_crop": True, "crop_size": 200}, "do_center_crop"),
    ({}, {"do_pad": True}, "do_pad"),
    ({}, {"image_processor_type": "CLIPImageProcessor"}, "image_processor_type"),
]


def check(imported, expected, *files) -> None:
    if isinstance(expected, str):
        with pytest.raises(ModelError, match=expected) as caught:
            imported(*files)
        assert "\n" not in str(caught.value)
        return
    field, value = expected
    network, transform = imported(*files)
    assert getattr(network if hasattr(network, field) else transform, field) == value


@pytest.mark.parametrize(("change", "expected"), ALTERED_TIMM)
def test_an_altered_configuration_of_timm_is_never_taken_for_the_usual_one(imported, change, expected):
    check(imported, expected, "timm", TIMM | change)


@pytest.mark.parametrize(("change", "pixels", "expected"), ALTERED_HF)
def test_nor_one_of_transformers(imported, change, pixels, expected):
    check(imported, expected, "transformers", HF | change, PROCESSOR | pixels)


@pytest.mark.parametrize(
    ("name", "has_bias", "outputs"),
    [
        ("convnext_base.clip_laion2b", False, 0),
        ("openclip_b", False, 0),
        ("convnext_base.clip_laion2b", True, 5),
        ("paperclip_detector", False, 5),
    ],
)
def test_a_head_is_clips_projection_only_by_its_name_and_without_a_bias(make_arrays, name, has_bias, outputs):
    arrays = make_arrays(CONFIG)
    arrays["head.bias"] = np.full(5, float(has_bias), np.float32)
    tensors = export_arrays(arrays, CONFIG, scheme_named("timm"))
    stated = read_stated(Path(f"{name}.safetensors"), scheme_named("timm"))
    assert translate(tensors, scheme_named("timm"), "file", stated=stated).config.num_classes == outputs


def test_the_unaltered_ones_are_the_papers_network(imported):
    assert imported("timm", TIMM)[0].has_usual_functions
    assert imported("transformers", HF, PROCESSOR)[0].head_norm_epsilon == 1e-12


@pytest.mark.parametrize("change", [{"activation": "gelu_tanh"}, {"norm_epsilon": 1e-2}, {"head_norm_epsilon": 0.5}])
def test_epsilons_and_the_tanh_form_change_the_network_and_its_onnx_graph(change, make_arrays):
    import dataclasses

    import mindspore as ms

    from convnext_imagenet.model.card import ModelCard, card_from_json, card_to_json
    from convnext_imagenet.model.exchange.onnx_file import run_onnx
    from convnext_imagenet.model.exchange.onnx_graph import onnx_model
    from convnext_imagenet.model.exchange.parity_check import pixel_values, probe_pixels
    from convnext_imagenet.model.network import Classifier
    from convnext_imagenet.model.runtime import cpu_kernels
    from convnext_imagenet.model.transform import EvalTransform

    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    arrays, answers = make_arrays(CONFIG), []
    for config in (CONFIG, dataclasses.replace(CONFIG, **change)):
        card = ModelCard(config, tuple(("", str(n)) for n in range(5)), EvalTransform(size_px=64))
        assert card_from_json(card_to_json(card)) == card
        network = ConvNeXt(config, cpu_kernels())
        assign_parameters(network, arrays)
        pixels = probe_pixels(card.transform)
        answers.append(Classifier(network, card.transform)(ms.Tensor(pixels)).asnumpy())
        (logits,) = run_onnx(onnx_model(card, arrays))(pixel_values(pixels, card.transform))
        assert np.abs(logits - answers[-1]).max() <= 1e-5 * np.abs(logits).max()
    assert np.abs(answers[0] - answers[1]).max() > 1e-5 * np.abs(answers[0]).max()


def test_the_tanh_form_is_exact():
    """MindSpore's own tanh on the CPU is off by 1e-4."""
    import mindspore as ms

    from convnext_imagenet.model.layers import Gelu

    x = np.linspace(-8, 8, 10_001).astype(np.float32)
    wide = x.astype(np.float64)
    expected = 0.5 * wide * (1 + np.tanh((2 / np.pi) ** 0.5 * (wide + 0.044715 * wide**3)))
    assert np.abs(Gelu("gelu_tanh")(ms.Tensor(x)).asnumpy() - expected).max() < 2e-6


@pytest.mark.parametrize("scheme", SCHEMES, ids=[f"{s.name}-{n}" for n, s in enumerate(SCHEMES)])
@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.", "module._orig_mod.", "model.net.", "ema_model.module."])
def test_a_wrapper_is_taken_off(scheme, prefix, make_arrays):
    arrays = {scheme.theirs(name): array for name, array in init_parameters(CONFIG, 0).items()}
    counter = {"n_averaged": np.zeros(())} if prefix else {}
    wrapped = {prefix + name: array for name, array in arrays.items()} | counter
    tensors, found = unwrap(wrapped, "file")
    made = translate(tensors, recognise_scheme(tensors, "file"), "file", new_head=0)
    assert len(made.arrays) == len(arrays) - 2
    assert found == prefix + scheme.prefixes[0].removesuffix("visual.trunk.")


def test_of_two_copies_the_average_is_taken_and_of_two_networks_none():
    arrays = init_parameters(CONFIG, 0)
    both = {f"model.{n}": a for n, a in arrays.items()} | {f"ema_model.module.{n}": a + 1 for n, a in arrays.items()}
    assert unwrap(both, "file")[1] == "ema_model.module."
    assert unwrap(both, "file", "raw")[1] == "model."
    assert [sorted(named_sets(names)) for names in (both, arrays, {"a": 0})] == [["ema", "raw"], ["raw"], []]
    two = {f"student.{n}": a for n, a in arrays.items()} | {f"teacher.{n}": a for n, a in arrays.items()}
    with pytest.raises(ModelError, match=r"holds several networks, with names that begin with 'student.', 'teacher.'"):
        unwrap(two, "file")
