"""Typed configuration: what is refused, and by which words."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from convnext_imagenet.train.config.config import (
    Config,
    config_from_mapping,
    dotted_keys,
    keys_outside_plan,
    neutral_values,
)
from convnext_imagenet.train.config.rules import rule_of
from convnext_imagenet.train.errors import ConfigError


def test_defaults_are_the_papers_recipe() -> None:
    config = config_from_mapping({})
    assert config == Config()
    assert (config.train.epochs, config.schedule.warmup_epochs) == (300, 20)
    assert (config.schedule.base_lr, config.schedule.min_lr, config.schedule.warmup_lr) == (4e-3, 1e-6, 0)
    assert (config.optimizer.beta1, config.optimizer.beta2, config.optimizer.eps) == (0.9, 0.999, 1e-8)
    assert (config.optimizer.weight_decay, config.data.global_batch_size) == (0.05, 4096)
    assert (config.augment.crop_scale, config.augment.crop_ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modle": {}}, ["unknown section modle", "did you mean model?"]),
        ({"train": 3}, ["train = 3", "[train]"]),
        (
            {"schedule": {"base_learning_rate": 1e-3}},
            ["schedule.base_learning_rate", "use schedule.base_lr (the highest rate"],
        ),
        ({"schedule": {"warmup_epoch": 1}}, ["did you mean schedule.warmup_epochs?"]),
        ({"augment": {"drop_path_rate": 0.1}}, ["unknown key augment.drop_path_rate", "model.drop_path_rate"]),
        ({"train": {"epochs": "3"}}, ["train.epochs = '3'", "whole number"]),
        ({"train": {"epochs": 3.0}}, ["train.epochs = 3.0", "whole number"]),
        ({"train": {"epochs": True}}, ["train.epochs = True", "whole number"]),
        ({"train": {"epochs": 0}}, ["train.epochs = 0", "at least 1"]),
        ({"train": {"seed": -1}}, ["train.seed = -1", "[0, 2**63)"]),
        ({"train": {"epochs": 2**63}}, ["train.epochs: is a whole number of 64 bits", "[-2**63, 2**63)"]),
        ({"schedule": {"base_lr": 10**400}}, ["schedule.base_lr: is a whole number of 1329 bits"]),
        ({"model": {"dims": [8, 16, 24, 16**5000]}}, ["model.dims: is a whole number of 20001 bits"]),
        ({"schedule": {"base_lr": float("nan")}}, ["schedule.base_lr = nan", "finite"]),
        ({"schedule": {"base_lr": 0}}, ["schedule.base_lr = 0", "greater than 0"]),
        ({"model": {"drop_path_rate": 1.0}}, ["model.drop_path_rate = 1.0", "[0, 1)"]),
        ({"model": {"variant": 1}}, ["model.variant = 1", "string"]),
        ({"model": {"depths": [1, 1, 1]}}, ["model.depths = [1, 1, 1]", "four whole numbers"]),
        ({"model": {"dims": [8, 16, 24, 0]}}, ["model.dims", "whole numbers in 1..100000"]),
        ({"model": {"dims": [10**12, 8, 8, 8]}}, ["model.dims = [1000000000000, 8, 8, 8]", "in 1..100000"]),
        ({"model": {"depths": [1, 10**8, 1, 1]}}, ["model.depths = [1, 100000000, 1, 1]", "in 1..1000"]),
        ({"model": {"dims": 8}}, ["model.dims = 8", "list of whole numbers"]),
        ({"model": {"num_classes": 1}}, ["model.num_classes = 1", "at least 2"]),
        ({"augment": {"crop_scale": [0.5, 0.1]}}, ["augment.crop_scale = [0.5, 0.1]", "low <= high"]),
        ({"augment": {"crop_scale": [0.5, 1.5]}}, ["augment.crop_scale", "<= 1"]),
        ({"augment": {"crop_ratio": [0.0, 1.0]}}, ["augment.crop_ratio", "of width / height with 0.001 <= low"]),
        ({"augment": {"erase_ratio": [1e-320, 1e308]}}, ["augment.erase_ratio", "<= high <= 1000"]),
        ({"augment": {"erase_count": 10**12}}, ["augment.erase_count = 1000000000000", "in 1..100"]),
        ({"augment": {"crop_ratio": [1.0]}}, ["augment.crop_ratio = [1.0]"]),
        ({"augment": {"flip_prob": 1.1}}, ["augment.flip_prob = 1.1", "[0, 1]"]),
        ({"data": {"eval_mode": "stretch"}}, ["data.eval_mode = 'stretch'", '"squash"']),
        ({"data": {"size_px": 16}}, ["data.size_px = 16", "at least 32"]),
        ({"train": {"epochs": 5}}, ["schedule.warmup_epochs = 20.0", "less than train.epochs = 5"]),
        ({"data": {"global_batch_size": 33}}, ["global_batch_size = 33", "must be even", "mix.prob=0"]),
        ({"data": {"device_batch_size": 1}}, ["device_batch_size = 1", "at least 2: rows go in pairs"]),
        ({"optimizer": {"accumulate_steps": -1}}, ["accumulate_steps = -1", "at least 0"]),
        ({"optimizer": {"accumulate_steps": 3}}, ["accumulate_steps = 3", "multiple of 6", "global_batch_size=4098"]),
        ({"precision": {"loss_scale": "dynamic"}}, ['loss_scale = "dynamic"', '"none" with precision.level = "O0"']),
        ({"augment": {"auto_augment": "augmix"}}, ["auto_augment = 'augmix'", "rand-mM-mstdS-nN-incI"]),
        ({"ema": {"warmup": 1}}, ["ema.warmup = 1", "must be true or false"]),
        ({"mix": {"mixup_alpha": 1e308}}, ["mix.mixup_alpha = 1e+308", "in [0, 1000]"]),
        ({"mix": {"cutmix_alpha": -0.1}}, ["mix.cutmix_alpha = -0.1", "in [0, 1000]"]),
        ({"mix": {"mode": "row"}}, ["mix.mode = 'row'", '"batch" or "pair" or "elem"']),
        ({"optimizer": {"name": "adam"}}, ["optimizer.name = 'adam'", '"lamb"']),
        ({"schedule": {"min_lr": 1.0}}, ["schedule.min_lr = 1.0", "schedule.base_lr = 0.004"]),
        ({"schedule": {"warmup_lr": 1.0}}, ["schedule.warmup_lr = 1.0", "schedule.base_lr = 0.004"]),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_rule(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        config_from_mapping(values)
    for word in words:
        assert word in str(refused.value)


def test_whole_numbers_pass_for_fractions_and_lists_for_tuples() -> None:
    config = config_from_mapping({"schedule": {"warmup_epochs": 5}, "augment": {"crop_scale": [1, 1]}})
    assert type(config.schedule.warmup_epochs) is float
    assert config.augment.crop_scale == (1.0, 1.0)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.epochs = 1  # type: ignore[misc]


def test_every_key_has_a_rule_that_its_default_fulfils() -> None:
    config = Config()
    for name in dotted_keys():
        section, key = name.split(".")
        content = getattr(config, section)
        rule = rule_of({declared.name: declared for declared in dataclasses.fields(content)}[key])
        assert rule.holds(getattr(content, key)), name


def test_a_key_that_is_added_later_says_what_older_runs_did_without_it() -> None:
    """Without `added_later` a new key refuses every existing RUN; with it, the runs that did the same resume."""
    first = set((Path(__file__).parent / "config_keys.txt").read_text().split())
    neutral, outside = neutral_values(Config()), keys_outside_plan(Config())
    assert dotted_keys().keys() - neutral.keys() - outside == first


def test_keys_outside_the_plan_change_no_step_or_only_the_order_of_its_sums() -> None:
    """Add a key here only if a RUN may resume with another value of it."""
    assert keys_outside_plan(Config()) == {
        "data.device_batch_size",
        "data.eval_batch_size",
        "optimizer.accumulate_steps",
        "train.best_by",
        "train.eval_every_epochs",
        "train.keep_best",
        "train.keep_checkpoints",
        "train.patience_epochs",
    }


@pytest.mark.parametrize(("values", "size"), [({"size_px": 48}, 48), ({"size_px": 48, "eval_size_px": 64}, 64)])
def test_evaluation_follows_the_training_size_unless_it_is_stated(values: dict[str, int], size: int) -> None:
    assert config_from_mapping({"data": values}).data.eval_size_px == size
