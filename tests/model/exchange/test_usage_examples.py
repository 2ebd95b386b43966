"""The Python in a card can be read by Python; tests/serve/weights/test_exporting.py runs it."""

import ast
import dataclasses

import pytest

from convnext_imagenet.model.exchange.usage_examples import mindir_example, onnx_example, timm_example
from convnext_imagenet.model.transform import EvalTransform


@pytest.mark.parametrize("transform", [EvalTransform(), EvalTransform(size_px=384, mode="squash")])
def test_examples_are_python(config, transform):
    for text in (
        onnx_example("m.onnx", transform, preprocessing=True),
        onnx_example("m.onnx", transform, preprocessing=False),
        mindir_example("m.mindir", transform),
        timm_example("m.safetensors", config, transform, "timm"),
        timm_example("m.safetensors", config, transform, "facebook"),
    ):
        ast.parse(text)
        assert "head.norm.eps" not in text
        assert max(map(len, text.splitlines())) <= 120


def test_another_epsilon_of_the_last_norm_is_set_in_timms_network(config):
    other = dataclasses.replace(config, head_norm_epsilon=1e-12)
    text = timm_example("m.safetensors", other, EvalTransform(), "timm")
    ast.parse(text)
    assert "norm_eps=1e-06" in text
    assert "\nnetwork.head.norm.eps = 1e-12\n" in text
