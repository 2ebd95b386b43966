"""The evaluation transform of imported weights: what lies beside them, then their name, then the usual one."""

import json

import pytest

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.foreign_preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    describe_transform,
    find_transform,
)
from convnext_imagenet.model.transform import EvalTransform

USUAL = EvalTransform()
NORMALISED = "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TIMM = {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bicubic", "mean": MEAN, "std": STD}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("convnext_tiny_1k_224_ema.pth", EvalTransform(224, 0.875)),
        ("convnext_tiny_22k_1k_384.pth", EvalTransform(384, 1.0, "squash")),
        ("convnextv2_huge_22k_512_ema.pt", EvalTransform(512, 1.0, "squash")),
        ("convnext_nano.r384_in12k_ft_in1k.safetensors", EvalTransform(384, 1.0, "squash")),
        ("convnext_tiny-288.safetensors", EvalTransform(288, 1.0)),
        ("convnext_tiny0-300_533.ckpt", USUAL),
        ("convnext_tiny-ae5ff8d7.ckpt", USUAL),
        ("model.safetensors", USUAL),
        ("paperclips_clipart.safetensors", USUAL),
    ],
)
def test_a_size_in_the_name_decides(tmp_path, name, expected):
    transform, why = find_transform(tmp_path / name, "facebook", 1000)
    assert transform == expected
    assert "in its name" in why


def beside(tmp_path, name, value, scheme, classes=1000):
    (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return find_transform(tmp_path / "model_384.safetensors", scheme, classes)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pretrained_cfg": TIMM}, USUAL),
        ({"num_classes": 1000, "pretrained_cfg": TIMM | {"crop_pct": 0.95}}, EvalTransform(224, 0.95)),
        (TIMM, USUAL),
        ({"pretrained_cfg": TIMM | {"test_input_size": [3, 288, 288], "test_crop_pct": 1.0}}, EvalTransform(288, 1.0)),
        (
            {"pretrained_cfg": TIMM | {"input_size": [3, 384, 384], "crop_pct": 1.0, "crop_mode": "squash"}},
            EvalTransform(384, 1.0, "squash"),
        ),
        (
            {"pretrained_cfg": TIMM | {"mean": list(CLIP_MEAN), "std": list(CLIP_STD), "interpolation": "bilinear"}},
            EvalTransform(interpolation="bilinear", mean=CLIP_MEAN, std=CLIP_STD),
        ),
    ],
)
def test_timms_config_decides(tmp_path, config, expected):
    transform, why = beside(tmp_path, "config.json", config, "timm")
    assert transform == expected
    assert why.startswith("config.json beside it")


@pytest.mark.parametrize(
    "change",
    [{"mean": [float("nan"), 0, 0]}, {"mean": ["a", "b", "c"]}, {"input_size": [3, 224.0, 224.0]}, {"std": [0] * 3}],
)
def test_values_that_are_no_transform_are_an_error(tmp_path, change):
    with pytest.raises(ModelError, match=r"config\.json: does not describe a supported transform"):
        beside(tmp_path, "config.json", {"pretrained_cfg": TIMM | change}, "timm")


@pytest.mark.parametrize("config", [{"num_classes": 21841, "pretrained_cfg": TIMM}, {"architectures": ["Other"]}])
def test_another_models_config_is_not_used_and_said(tmp_path, config):
    transform, why = beside(tmp_path, "config.json", config, "timm")
    assert transform == EvalTransform(384, 1.0, "squash")
    assert why.endswith("; config.json beside it is another model's")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"size": 224, "crop_pct": 0.875, "resample": 3}, USUAL),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.9, "resample": 2},
            EvalTransform(224, 0.9, interpolation="bilinear"),
        ),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, EvalTransform(384, 1.0, "squash")),
    ],
)
def test_transformers_preprocessor_decides(tmp_path, config, expected):
    config |= {"image_mean": MEAN, "image_std": STD}
    transform, why = beside(tmp_path, "preprocessor_config.json", config, "transformers")
    assert transform == expected
    assert why.startswith("preprocessor_config.json beside it")


def test_openclips_config_decides(tmp_path):
    config = {"model_cfg": {"vision_cfg": {"image_size": 256}}, "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD}}
    transform, _ = beside(tmp_path, "open_clip_config.json", config, "openclip")
    assert transform == EvalTransform(256, 1.0, mean=CLIP_MEAN, std=CLIP_STD)


def test_openclip_without_its_config_has_clips_mean(tmp_path):
    transform, why = find_transform(tmp_path / "open_clip_pytorch_model.bin", "openclip", 1000)
    assert transform == EvalTransform(224, 1.0, mean=CLIP_MEAN, std=CLIP_STD)
    assert "CLIP's mean" in why


def test_a_config_of_another_program_is_not_read(tmp_path):
    transform, _ = beside(tmp_path, "config.json", "not JSON", "facebook")
    assert transform.size_px == 384


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[1]",
        {"pretrained_cfg": TIMM | {"crop_mode": "border"}},
        {"pretrained_cfg": TIMM | {"input_size": [3, 224, 256]}},
        {"pretrained_cfg": TIMM | {"crop_pct": 0.9, "crop_mode": "squash"}},
        {"pretrained_cfg": TIMM | {"interpolation": "random"}},
        {"pretrained_cfg": TIMM | {"input_size": 3}},
    ],
)
def test_a_config_that_cannot_be_followed_is_an_error(tmp_path, config):
    with pytest.raises(ModelError, match=r"config\.json: does not describe a supported transform .* pass --size"):
        beside(tmp_path, "config.json", config, "timm")


def test_a_preprocessor_that_does_not_resize_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="do_resize or do_normalize is off"):
        beside(tmp_path, "preprocessor_config.json", {"size": 224, "do_resize": False}, "transformers")


def test_transforms_are_told_in_words():
    assert describe_transform(USUAL) == f"short side resized to 256 px, bicubic, centre crop 224 px, {NORMALISED}"
    assert (
        describe_transform(EvalTransform(384, 1.0, "squash"))
        == f"the whole image resized to 384 px, bicubic, {NORMALISED}"
    )
