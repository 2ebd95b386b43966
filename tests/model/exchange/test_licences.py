"""Where a licence is stated, in which order, and what is said when nothing is known."""

import pytest

from convnext_imagenet.model.card import ModelCard, inherited_licence
from convnext_imagenet.model.convnext import ConvNeXtConfig
from convnext_imagenet.model.exchange.licences import find_licence
from convnext_imagenet.model.transform import EvalTransform


@pytest.mark.parametrize(
    ("files", "name", "settings", "expected"),
    [
        ({}, "w.safetensors", {"pretrained_cfg": {"license": "CC-BY-NC-4.0"}}, "cc-by-nc-4.0"),
        ({"README.md": "---\nlicense: other\nlicense_name: dinov3-license\n---\n"}, "w", {}, "dinov3-license"),
        ({"README.md": "---\nlicense: mit\n---\n"}, "convnextv2_tiny.pt", {}, "mit"),
        ({"README.md": "license: mit in the text"}, "w", {}, "not stated"),
        ({"LICENSE.md": "# DINOv3 License\n\n*Last Updated*"}, "w", {}, "dinov3-license"),
        ({}, "dinov3_convnext_tiny_pretrain.pth", {}, "dinov3-license"),
        ({}, "convnextv2_atto_1k_224_ema.pt", {}, "cc-by-nc-4.0"),
        ({}, "convnext_tiny_1k_224_ema.pth", {}, "not stated"),
    ],
)
def test_the_nearest_statement_decides(tmp_path, files, name, settings, expected):
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    found = find_licence(tmp_path / name, "facebook", settings, grn="v2" in name)
    assert found.name == expected
    assert bool(found.words) == (expected != "not stated")


def test_what_is_made_from_weights_inherits_their_licence():
    config = ConvNeXtConfig("small", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=0)
    stated = {"file": "w", "licence": "dinov3-license", "licence_from": "name", "licence_words": "Keep it"}
    card = ModelCard(config, (), EvalTransform(), {"imported": stated | {"head": "none"}})
    made = ModelCard(config, (), EvalTransform(), inherited_licence(card))
    assert made.provenance == {"licences": [stated]}
    assert inherited_licence(made) == made.provenance
    unknown = ModelCard(config, (), EvalTransform(), {"imported": {"licence": "not stated"}})
    assert inherited_licence(unknown) == {}
