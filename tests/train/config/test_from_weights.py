"""What a configuration takes from the weights that it starts from: all that it does not state, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import VARIANTS, ConvNeXtConfig
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.from_weights import keys_from_weights, load_config_for_weights
from convnext_imagenet.train.config.source import load_config, to_toml
from convnext_imagenet.train.errors import ConfigError
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config

NANO = VARIANTS["convnext_nano"]
V2_PICO = VARIANTS["convnextv2_pico"]
OWN = ConvNeXtConfig("", (1, 2, 3, 1), (8, 16, 24, 32))
SQUASHED = EvalTransform(96, crop_pct=1.0, mode="squash")


def _card(network: ConvNeXtConfig, transform: EvalTransform = SQUASHED) -> ModelCard:
    network = dataclasses.replace(network, num_classes=2)
    return ModelCard(network, (("n00000001", ""), ("n00000002", "")), transform)


def _load(path: Path, text: str, network: ConvNeXtConfig, *overrides: str, run: Path | None = None) -> Config:
    path.write_text(text)
    return load_config_for_weights(str(path), overrides, _card(network), run)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Where a test writes a configuration."""
    return tmp_path / "own.toml"


@pytest.mark.parametrize(
    ("network", "variant", "depths", "dims"),
    [
        (NANO, "convnext_nano", (), ()),
        (V2_PICO, "convnextv2_pico", (), ()),
        (dataclasses.replace(NANO, variant=""), "convnext_nano", (), ()),
        (OWN, "convnext_atto", (1, 2, 3, 1), (8, 16, 24, 32)),
        (dataclasses.replace(OWN, grn=True), "convnextv2_atto", (1, 2, 3, 1), (8, 16, 24, 32)),
        (dataclasses.replace(NANO, depths=(1, 1, 2, 1)), "convnext_nano", (1, 1, 2, 1), ()),
        (
            dataclasses.replace(OWN, variant="convnext_base", dims=(128, 256, 512, 1024)),
            "convnext_base",
            (1, 2, 3, 1),
            (),
        ),
    ],
)
def test_the_network_is_that_of_the_weights(
    network: ConvNeXtConfig, variant: str, depths: tuple[int, ...], dims: tuple[int, ...], own: Path
) -> None:
    for text in ("# the defaults\n", '[model]\nvariant = ""\n'):
        config = _load(own, text, network)
        assert (config.model.variant, config.model.depths, config.model.dims) == (variant, depths, dims)
        built = network_config(config.model, 2)
        assert (built.depths, built.dims, built.grn) == (network.depths, network.dims, network.grn)


def test_evaluation_is_that_of_the_weights_and_the_size_of_training_is_not(own: Path) -> None:
    config = _load(own, "[data]\nglobal_batch_size = 64\n", NANO)
    assert (config.data.size_px, evaluation_transform(config.data)) == (224, SQUASHED)


def test_a_stated_training_size_is_also_that_of_evaluation(own: Path) -> None:
    transform = evaluation_transform(_load(own, "[data]\nsize_px = 64\n", NANO).data)
    assert (transform.size_px, transform.mode, transform.crop_pct) == (64, SQUASHED.mode, SQUASHED.crop_pct)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("data.eval_size_px=128", "data", "eval_size_px", 128),
        ("data.eval_crop_pct=0.5", "data", "eval_crop_pct", 0.5),
        ("data.eval_mode=crop", "data", "eval_mode", "crop"),
        ("model.depths=[2,2,8,2]", "model", "depths", (2, 2, 8, 2)),
        ("model.dims=[]", "model", "dims", ()),
    ],
)
def test_what_is_stated_stays(override: str, section: str, key: str, value: Any, own: Path) -> None:
    plain, stated = _load(own, "# the defaults\n", OWN), _load(own, "# the defaults\n", OWN, override)
    wanted = dataclasses.replace(getattr(plain, section), **{key: value})
    assert stated == dataclasses.replace(plain, **{section: wanted})


def test_a_stated_variant_states_its_depths_and_dims(own: Path) -> None:
    config = _load(own, '[model]\nvariant = "convnext_pico"\n', OWN)
    assert (config.model.variant, config.model.depths, config.model.dims) == ("convnext_pico", (), ())


def test_a_configuration_that_states_everything_is_left_alone(own: Path) -> None:
    text = to_toml(load_config("nette96"))
    assert _load(own, text, OWN) == load_config("nette96")


def test_a_run_that_has_begun_keeps_what_it_began_with(own: Path, tmp_path: Path) -> None:
    """As a preset stated it before, in words that the weights would not choose: a base with other depths and dims."""
    overrides = ["model.variant=convnext_base", "model.depths=[1,2,3,1]", "model.dims=[8,16,24,32]", "train.epochs=9"]
    before = load_config("finetune", overrides)
    (tmp_path / "config.toml").write_text(to_toml(before))
    after = load_config_for_weights("finetune", ["train.epochs=9"], _card(OWN), tmp_path)
    assert after == before
    assert load_config_for_weights("finetune", ["train.epochs=9"], _card(OWN), None) != before


def test_a_preset_that_states_a_size_is_evaluated_at_it_and_else_as_the_weights_are() -> None:
    config = load_config_for_weights("small-finetune", [], _card(OWN), None)
    assert evaluation_transform(config.data) == dataclasses.replace(SQUASHED, size_px=224)


@pytest.mark.parametrize("preset", ["finetune", "nette96-finetune"])
def test_a_preset_for_any_network_needs_weights_and_keeps_its_sizes(preset: str) -> None:
    alone = load_config(preset)
    with pytest.raises(ConfigError, match=r'model\.variant = "": .*pass --init-from WEIGHTS, or --set model\.variant='):
        network_config(alone.model, 2)
    config = load_config_for_weights(preset, [], _card(V2_PICO), None)
    assert config.model == dataclasses.replace(alone.model, variant="convnextv2_pico")
    assert config.data.eval_size_px == alone.data.eval_size_px == alone.data.size_px
    assert config.data.eval_crop_pct == alone.data.eval_crop_pct


def test_what_was_taken_can_be_said(own: Path) -> None:
    config = _load(own, "[data]\neval_size_px = 96\n", OWN)
    assert keys_from_weights(str(own), [], config) == [
        "model.variant=convnext_atto",
        "model.depths=[1, 2, 3, 1]",
        "model.dims=[8, 16, 24, 32]",
        "data.eval_crop_pct=1.0",
        "data.eval_mode=squash",
    ]
    assert keys_from_weights("nette96", [], load_config("nette96")) == []


@pytest.mark.parametrize("text", ["model = 3\n", "[model]\nvariant = 3\n", "[model]\nvariants = 3\n", "[date]\n"])
def test_a_bad_configuration_is_refused_as_without_weights(text: str, own: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        _load(own, text, OWN)
    with pytest.raises(ConfigError) as alone:
        load_config(str(own))
    assert str(refused.value) == str(alone.value)
