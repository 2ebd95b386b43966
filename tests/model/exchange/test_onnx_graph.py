"""The ONNX graph is the network: against the float64 reference, in onnxruntime, for any number of images."""

import sys

import numpy as np
import pytest

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.onnx_file import import_onnx, import_onnxruntime, run_onnx
from convnext_imagenet.model.exchange.onnx_graph import FEATURES, IR_VERSION, LOGITS, OPSET, PIXEL_VALUES, onnx_model
from convnext_imagenet.model.transform import EvalTransform

TRANSFORM = EvalTransform(size_px=70, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))  # 70 leaves rows over at each stage


@pytest.fixture
def card(config) -> ModelCard:
    return ModelCard(config, tuple((f"n{index:08d}", str(index)) for index in range(config.num_classes)), TRANSFORM)


@pytest.fixture
def arrays(config, make_arrays):
    return make_arrays(config)


def pixels(count):
    return np.random.default_rng(count).integers(0, 256, (count, 70, 70, 3), np.uint8)


def close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("count", [1, 3])
def test_pixels_are_normalised_in_the_graph_and_logits_and_features_are_the_networks(card, arrays, reference, count):
    pytest.importorskip("onnxruntime")
    run = run_onnx(onnx_model(card, arrays, preprocessing=True, with_features=True), threads=1)
    logits_NK, features_NC = run(pixels(count))
    values_NHWC = (pixels(count) / 255 - TRANSFORM.mean) / TRANSFORM.std
    close(logits_NK, reference.logits(values_NHWC, arrays, card.config.depths))
    close(features_NC, reference.features(values_NHWC, arrays, card.config.depths))


def test_without_preprocessing_the_input_is_normalised_and_channels_first(card, arrays, reference):
    pytest.importorskip("onnxruntime")
    values_NCHW = np.random.default_rng(0).standard_normal((2, 3, 70, 70)).astype(np.float32)
    (logits_NK,) = run_onnx(onnx_model(card, arrays), threads=1)(values_NCHW)
    close(logits_NK, reference.logits(values_NCHW.transpose(0, 2, 3, 1), arrays, card.config.depths))


def test_operators_are_standard_and_the_model_says_what_it_is(card, arrays):
    onnx = pytest.importorskip("onnx")
    model = onnx_model(card, arrays, metadata={"variant": "small"})
    assert {node.domain for node in model.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    assert [given.name for given in model.graph.input] == [PIXEL_VALUES]
    assert [output.name for output in model.graph.output] == [LOGITS]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"variant": "small"}
    onnx.checker.check_model(model, full_check=True)
    assert [output.name for output in onnx_model(card, arrays, with_features=True).graph.output] == [LOGITS, FEATURES]


def test_the_same_weights_make_the_same_bytes(card, arrays):
    pytest.importorskip("onnx")
    first, second = (onnx_model(card, dict(order)) for order in (arrays.items(), reversed(arrays.items())))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_arrays_of_another_network_are_refused(card, arrays):
    pytest.importorskip("onnx")
    arrays.pop("head.bias")
    with pytest.raises(ModelError, match=r"^no ONNX graph can be made: 1 missing \(head.bias\)"):
        onnx_model(card, arrays)


@pytest.mark.parametrize(("package", "importer"), [("onnx", import_onnx), ("onnxruntime", import_onnxruntime)])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, importer):
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError) as caught:
        importer()
    message = str(caught.value)
    assert message.startswith(f"{package} cannot be imported")
    assert message.endswith(f"run `{sys.executable} -m pip install 'convnext_imagenet[onnx]'`")
    assert "\n" not in message
