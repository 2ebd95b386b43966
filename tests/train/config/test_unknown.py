"""Unknown names: what other programs mean by them, and where letters may guess."""

import re
from pathlib import Path

import pytest

from convnext_imagenet.train.cli import run
from convnext_imagenet.train.config.config import config_from_mapping, dotted_keys
from convnext_imagenet.train.config.other_names import OTHER_NAMES, ROWS
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.config.unknown import unknown_key, unknown_name, unknown_section, without_section
from convnext_imagenet.train.errors import ConfigError

KEYS = list(dotted_keys())
SECTIONS = {key.partition(".")[0] for key in KEYS}
OPTIONS = {name for option in run.params for name in option.opts}
PARAMETERS = Path(__file__).parents[3] / "docs" / "parameters.md"


def _refusal(override: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load_config("demo", [override])
    return str(refused.value)


def test_each_name_has_one_row() -> None:
    names = [name for names, _, _ in ROWS for name in names.split()]
    assert len(names) == len(set(names)) == len(OTHER_NAMES)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


def test_every_key_and_option_that_the_table_names_exists() -> None:
    words = [word for _, targets, note in ROWS for word in (*targets.split(), *re.findall(r"--[a-z-]+", note))]
    words += [word for _, _, note in ROWS for word in re.findall(rf"\b(?:{'|'.join(SECTIONS)})\.\w+", note)]
    assert len(words) > len(ROWS)
    assert not set(words) - {*KEYS, *OPTIONS}


def test_the_examples_33_parameters_lead_to_the_keys_of_the_document() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", PARAMETERS.read_text(), re.MULTILINE)
    assert len(rows) == 33
    for name, ours in rows:
        meant = without_section(name, KEYS)
        assert meant is not None, name
        assert set(meant.targets) == set(re.findall(r"`([a-z]+\.\w+|--[a-z-]+)`", ours)), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lr", "use schedule.base_lr (the highest rate, for a step of data.global_batch_size rows"),
        ("learning_rate", "use schedule.base_lr"),
        ("base_lr", "use schedule.base_lr"),  # a key of another section
        ("lr_base", "others scale theirs by the rows of a step / 256"),
        ("batch_size", "use data.global_batch_size and data.device_batch_size (the rows of a step on all devices"),
        ("per_device_train_batch_size", "use data.device_batch_size"),
        ("img-size", "use data.size_px ("),
        ("EPOCHS", "use train.epochs"),
        ("wd", "use optimizer.weight_decay"),
        ("mixup", "use mix.mixup_alpha (the parameter of its Beta draw; mix.prob is the probability"),
        ("warmup_steps", "use schedule.warmup_epochs (in epochs, which may be a fraction: steps / steps of an epoch)"),
        ("clip_grad", "use optimizer.clip_norm"),
        ("workers", "use --workers"),
        ("device", "use --device-target"),  # not augment.device
        ("finetune", "use --init-from"),
        ("resume", "; run the same command again to resume"),
        ("vflip", "; images are never flipped vertically"),
    ],
)
def test_a_name_of_another_program_is_understood_wherever_it_stands(name: str, words: str, tmp_path: Path) -> None:
    plain = name.replace("-", "_").lower()
    for section in SECTIONS:
        if f"{section}.{plain}" not in KEYS:
            assert words in unknown_key(section, name, KEYS).text
    (in_unknown_section,) = unknown_section("hyper", {name: 1}, KEYS)
    assert f"unknown key hyper.{name}; " in in_unknown_section.text
    assert words in in_unknown_section.text
    assert words in _refusal(f"{name}=1")
    assert words in _refusal(f"hyper.{name}=1")
    path = tmp_path / "own.toml"
    path.write_text(f"{name} = 1\n")
    with pytest.raises(ConfigError, match=f"^{name} = 1: stands in no section; ") as refused:
        load_config(str(path))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("batch_size=64", "--set batch_size=64: must be section.key=value; use data.global_batch_size"),
        ("workers=8", "--set workers=8: is no key; use --workers"),
        ("epoch=3", "--set epoch=3: must be section.key=value; use train.epochs"),
        ("train.epochs", "--set train.epochs: must be section.key=value, and the value is missing"),
        ("prob=0.5", "--set prob=0.5: must be section.key=value, as in --set train.epochs=10"),  # of mixing, of a flip?
        ("optimizer=sgd", "--set optimizer=sgd: must be section.key=value; use optimizer.name"),
        ("optim.lr=1", "unknown key optim.lr; use schedule.base_lr"),
    ],
)
def test_an_override_of_another_form_says_what_it_may_mean(override: str, words: str) -> None:
    assert words in _refusal(override)


TYPING_MISTAKES = {
    "schedule.warmup_epoch": "schedule.warmup_epochs",
    "schedule.bas_lr": "schedule.base_lr",
    "schedule.minlr": "schedule.min_lr",
    "schedule.knd": "schedule.kind",
    "train.epoch": "train.epochs",
    "train.sed": "train.seed",
    "train.keep_bests": "train.keep_best",
    "data.sizepx": "data.size_px",
    "data.eval_size": "data.eval_size_px",
    "data.eval_crop": "data.eval_crop_pct",
    "data.gloabl_batch_size": "data.global_batch_size",
    "optimizer.wieght_decay": "optimizer.weight_decay",
    "optimizer.beta_1": "optimizer.beta1",
    "optimizer.nestrov": "optimizer.nesterov",
    "mix.mixup_alfa": "mix.mixup_alpha",
    "mix.swich_prob": "mix.switch_prob",
    "augment.autoaugment": "augment.auto_augment",
    "augment.ersae_prob": "augment.erase_prob",
    "precision.leve": "precision.level",
    "ema.decays": "ema.decay",
    "model.varient": "model.variant",
    "model.dim": "model.dims",
    "model.num_class": "model.num_classes",
    "train.warmup_epoch": "schedule.warmup_epochs",  # and in another section
    "model.wieght_decay": "optimizer.weight_decay",
}
OTHER_WORDS = [
    "augment.blur_prob",
    "augment.contrast",
    "augment.cutout",
    "augment.gray_prob",
    "augment.grayscale",
    "augment.solarize_prob",
    "data.num_samples",
    "data.prefetch",
    "data.test_size_px",
    "ema.start_epochs",
    "mix.ricap_alpha",
    "model.depth_multiplier",
    "augment.mode",
    "model.name",
    "model.level",
    "optimizer.kind",
    "model.se_ratio",
    "optimizer.amsgrad",
    "optimizer.decay",
    "optimizer.fused",
    "schedule.T_max",
    "schedule.warm_restarts",
    "train.save_best",
    "train.test_epochs",
    "train.val_epochs",
]


@pytest.mark.parametrize(("mistake", "key"), TYPING_MISTAKES.items())
def test_a_typing_mistake_is_corrected(mistake: str, key: str) -> None:
    section, _, name = mistake.partition(".")
    assert unknown_key(section, name, KEYS).text == f"unknown key {mistake}; did you mean {key}?"


@pytest.mark.parametrize("word", OTHER_WORDS)
def test_another_word_is_no_typing_mistake_but_gets_the_keys_of_its_section(word: str) -> None:
    section, _, name = word.partition(".")
    own = [key for key in KEYS if key.startswith(f"{section}.")]
    assert unknown_key(section, name, KEYS).text == f"unknown key {word}; known: {', '.join(own)}"


@pytest.mark.parametrize(
    ("section", "meant"),
    [
        ("trains", "train"),
        ("modle", "model"),
        ("optim", "optimizer"),
        ("lr_scheduler", "schedule"),
        ("augmentation", "augment"),
        ("training", "train"),
        ("dataset", "data"),
        ("amp", "precision"),  # by meaning: no letters agree
        ("model_ema", "ema"),
        ("mixup", "mix"),
        ("main", ""),
        ("logging", ""),
        ("loader", ""),
    ],
)
def test_an_unknown_section_is_found_by_meaning_or_letters(section: str, meant: str) -> None:
    (found,) = unknown_section(section, {}, KEYS)
    hint = f"did you mean {meant}?" if meant else "known: model, data, augment"
    assert found.text.startswith(f"unknown section {section}; {hint}")


def test_a_misspelt_section_keeps_its_own_keys_and_explains_the_others() -> None:
    with pytest.raises(ConfigError) as refused:
        config_from_mapping({"trains": {"epochs": 3, "lr": 0.1}})
    assert refused.value.faults == (
        "unknown section trains; did you mean train?",
        "unknown key trains.lr; use schedule.base_lr (the highest rate, for a step of data.global_batch_size rows; "
        "it is not scaled)",
    )


@pytest.mark.parametrize(("name", "near"), [("paper_tiny", "paper-tiny"), ("dmo", "demo"), ("tiny", ""), ("v2", "")])
def test_a_preset_is_guessed_only_from_most_of_its_letters(name: str, near: str) -> None:
    presets = ["demo", "paper-tiny", "v2-tiny"]
    hint = f"did you mean {near}?" if near else "known: demo, paper-tiny, v2-tiny"
    assert unknown_name("preset", name, presets) == f"unknown preset {name}; {hint}"
