"""TOML in and out, presets, and `--set`."""

import dataclasses
import importlib.resources
import tomllib
from pathlib import Path

import numpy as np
import pytest

from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.source import load_config, preset_names, to_toml
from convnext_imagenet.train.errors import ConfigError

PRESETS = [
    "demo",
    "finetune",
    "medium",
    "nette96",
    "nette96-finetune",
    "nette96-recipe",
    "paper-base",
    "paper-large",
    "paper-small",
    "paper-tiny",
    "seed",
    "small",
    "small-finetune",
    "v2-atto",
    "v2-base",
    "v2-tiny",
]


def _random_config(seed: int) -> Config:
    rng = np.random.default_rng(seed)
    low, high = sorted(rng.uniform(0.01, 1.0, 2).tolist())
    strange = "".join(chr(code) for code in rng.integers(1, 0x2000, 12))
    return config_from_mapping(
        {
            "model": {"variant": strange + '"\\\x7f\n', "depths": rng.integers(1, 9, 4).tolist()},
            "augment": {"crop_scale": [low, high], "flip_prob": float(rng.random())},
            "optimizer": {"eps": float(10.0 ** rng.uniform(-300, 0)), "weight_decay": float(rng.random() * 1e20)},
            "schedule": {"base_lr": float(rng.uniform(1, 2)), "min_lr": float(rng.random())},
            "train": {"seed": int(rng.integers(0, 2**63)), "epochs": int(rng.integers(21, 10**6))},
        }
    )


@pytest.mark.parametrize("seed", range(50))
def test_a_configuration_written_as_toml_reads_back_equal(seed: int) -> None:
    config = _random_config(seed)
    assert config_from_mapping(tomllib.loads(to_toml(config))) == config


def test_toml_states_every_key() -> None:
    text = to_toml(Config())
    for section in dataclasses.fields(Config):
        assert f"[{section.name}]" in text
        for key in dataclasses.fields(getattr(Config(), section.name)):
            assert f"\n{key.name} = " in text


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_says_what_to_expect(name: str) -> None:
    assert name in preset_names()
    load_config(name)
    text = (importlib.resources.files("convnext_imagenet.train.presets") / f"{name}.toml").read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for word in (f"CONFIG={name}", "Hours:", "Accuracy:"):
        assert word in header


def test_preset_names_are_all_tested() -> None:
    assert preset_names() == PRESETS


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.epochs=30", "train", "epochs", 30),
        (" train.epochs = 30 ", "train", "epochs", 30),
        ("schedule.base_lr=1e-3", "schedule", "base_lr", 1e-3),
        ("model.variant=convnextv2_atto", "model", "variant", "convnextv2_atto"),
        ('model.variant="convnextv2_atto"', "model", "variant", "convnextv2_atto"),
        ("augment.crop_scale=[0.3, 1]", "augment", "crop_scale", (0.3, 1.0)),
    ],
)
def test_an_override_wins_over_the_preset(override: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(load_config("paper-tiny", [override]), section), key) == value


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs", "section.key=value"),
        ("epochs=3", "section.key=value"),
        ("train.epochs=three", "is not a TOML value"),
        ("train.epoch=3", "did you mean train.epochs?"),
        ("trains.epochs=3", "unknown section trains; did you mean train?"),
        ("model.variant=3", "model.variant = 3: must be a string"),
        ("train.epochs=30\nseed = 4", "is not a TOML value"),
        (f"train.epochs={'9' * 5000}", "is not a TOML value"),
        (f"model.dims={'[' * 5000}", "is not a TOML value"),
    ],
)
def test_a_bad_override_is_refused(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("paper-tiny", [override])
    assert words in str(refused.value)


def test_an_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("paper_tiny")
    assert "did you mean paper-tiny?" in str(refused.value)
    for name in preset_names():
        assert name in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nepochs = 3\nseed = 2\nepochs = 4\n", "line 4 states again what stands above it: epochs = 4; keep"),
        (
            "[train]\nepochs = 3\n[model]\n[train]\nseed = 1\n",
            "line 4 states again what stands above it: [train]; keep",
        ),
        ("train.epochs = 3\n[train]\nseed = 1\n", "line 2 states again what stands above it: [train]; keep"),
        ("train = {epochs = 3}\ntrain.seed = 1\n", "line 2 states again what stands above it: train.seed = 1; keep"),
        ("train = 3\n", "train = 3: must be a section of keys; write [train] above its keys"),
        ("[[train]]\nepochs = 3\n", "must be a section of keys; write [train] above its keys"),
        ("optimizer = 'sgd'\n", "write [optimizer] above its keys, or use optimizer.name"),
        (
            "[schedule.base_lr]\npeak = 1\n",
            "[schedule.base_lr]: is a key, not a section; write base_lr = ... below [sch",
        ),
    ],
)
def test_names_that_stand_twice_or_for_something_else_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(str(path), ["train.epochs=30"])
    assert words in str(refused.value)
    assert len(refused.value.faults) == 1


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read .*presets: demo"):
        load_config(str(tmp_path / "missing.toml"))
    empty = tmp_path / "empty.toml"
    empty.write_text("\n")  # as a command that failed leaves it behind a ">"
    with pytest.raises(ConfigError, match=r"empty\.toml: empty; write the keys"):
        load_config(str(empty))
    broken = tmp_path / "broken.toml"
    broken.write_text("[train\nepochs = 3")
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML"):
        load_config(str(broken))
    for value in ("[1,", "9" * 5000, "[" * 5000):
        broken.write_text(f"[train]\nepochs = {value}")
        with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML: .*; correct the file"):
            load_config(str(broken))
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(str(broken))
