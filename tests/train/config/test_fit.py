"""All faults in one refusal, and its ways out: passed together, they lead to a run."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.fit import RunFacts, check_fit, fit_faults
from convnext_imagenet.train.config.schedule import divide_batch, plan_steps
from convnext_imagenet.train.config.source import load_config, preset_names
from convnext_imagenet.train.errors import ConfigError

IMAGENET = RunFacts(devices=8, rows=1_281_167, classes=1000, target="Ascend")
FLOWERS = RunFacts(devices=1, rows=1040, classes=5, target="CPU")


def _faults(name: str, overrides: list[str], facts: RunFacts | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_config(name, overrides, facts)
    return refused.value.faults


def _ways_out(faults: tuple[str, ...]) -> list[list[str]]:
    """The overrides of every choice among the ways out that the faults name."""
    ways = []
    for fault in faults:
        texts = re.split(r",? or ", fault.split("pass ", 1)[1])
        ways.append([found for text in texts if (found := re.findall(r"--set (\S+=[\w.-]+)", text))])
        assert ways[-1], fault
    return [list(itertools.chain(*choice)) for choice in itertools.product(*ways)]


def test_the_papers_preset_on_few_rows_and_classes_needs_one_correction() -> None:
    """The advice once led through three more refusals, one after the other."""
    faults = _faults("paper-tiny", [], FLOWERS)
    assert [fault.partition(":")[0] for fault in faults] == [
        "data.global_batch_size = 4096",
        "model.num_classes = 1000",
    ]
    (way_out,) = _ways_out(faults)
    config = load_config("paper-tiny", way_out, FLOWERS)
    assert plan_steps(config, rows=1040).steps_per_epoch == 7
    assert str(divide_batch(config, 1, 1040)) == "global batch 132 = 1 device x 2 micro-batches x 66 rows"


def test_one_refusal_names_faults_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        "epochs = 3\naugment = 1\n[schedule]\nlr = 0.1\nmin_lr = 0.5\n[data]\nsize_px = 16\nglobal_batch_size = 99\n"
        "[train]\nseed = 'one'\n[precision]\nloss_scale = 'static'\n[model]\nvariant = 'resnet50'\nnum_classes = 7\n"
    )
    with pytest.raises(ConfigError) as refused:
        load_config(str(path), ["batch=3", "optim.wd=0", "ema.decay=high"], FLOWERS)
    first, *lines = refused.value.lines()
    assert first == f"{len(lines)} faults in the configuration:"
    beginnings = (
        "--set batch=3: must be",
        "--set ema.decay=high: 'high' is not a TOML value",
        "epochs = 3: stands in no section; use train.epochs",
        "augment = 1: must be a section of keys",
        "unknown key schedule.lr; use schedule.base_lr",
        "data.size_px = 16: must be at least 32",
        "train.seed = 'one': must be a whole number",
        "unknown key optim.wd; use optimizer.weight_decay",
        "data.global_batch_size = 99: mixup and cutmix pair the rows",
        'precision.loss_scale = "static": must be "none"',
        "model.variant: unknown variant resnet50; known: convnext_atto",
        "model.num_classes = 7: the records hold 5 classes",
    )
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(f"  {beginning}")
    assert str(refused.value) == "\n".join([first, *lines])


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["schedule.warmup_epochs=400", "train.epochs=0"], 1),  # 400 is not too much for 500 epochs
        (["schedule.warmup_epochs=400", "epochs=500"], 1),
        (["schedule.warmup_epochs=400", "train.epoch=500"], 1),
        (["schedule.warmup_epochs=400", "trains.epochs=500"], 1),
        (["schedule.warmup_epochs=400", "train.epochs=50"], 1),
        (["schedule.min_lr=0.1", "schedule.lr=0.2"], 1),
        (["schedule.min_lr=0.1", "train.seed=-1"], 2),
        (["data.global_batch_size=33.0"], 1),
        (["data.global_batch_size=33", "mix.prob=2"], 1),
    ],
)
def test_what_only_contradicts_a_value_that_is_not_known_is_no_fault(overrides: list[str], count: int) -> None:
    assert len(_faults("paper-tiny", overrides)) == count


def test_a_section_without_keys_contradicts_nothing() -> None:
    with pytest.raises(
        ConfigError, match=r"^schedule = 3: must be a section of keys; write \[schedule\] above its keys$"
    ):
        config_from_mapping({"schedule": 3, "train": {"epochs": 5}})  # less than the default warm-up


@pytest.mark.parametrize("preset", preset_names())
def test_one_epoch_of_a_preset_is_one_override_or_the_one_that_the_refusal_names(preset: str) -> None:
    overrides = ["train.epochs=1"]
    if load_config(preset).schedule.warmup_epochs >= 1:
        faults = _faults(preset, overrides)
        assert len(faults) == 1
        assert _ways_out(faults) == [["schedule.warmup_epochs=0"]]
        overrides += ["schedule.warmup_epochs=0"]
    assert load_config(preset, overrides).train.epochs == 1


VALUES = {
    "data.global_batch_size": ("4096", "64", "33", "1"),
    "data.device_batch_size": ("0", "128", "31"),
    "optimizer.accumulate_steps": ("0", "3"),
    "model.num_classes": ("0", "1000", "3"),
    "schedule.warmup_epochs": ("0", "20"),
    "schedule.warmup_lr": ("0.0", "1.0"),
    "schedule.base_lr": ("4e-3", "1e-9"),
    "train.epochs": ("1", "300"),
    "mix.prob": ("0", "1"),
    "precision.level": ("O0", "O2"),
    "precision.dtype": ("float16", "bfloat16"),
    "precision.loss_scale": ("none", "dynamic"),
}


def _random_cases() -> Iterator[tuple[list[str], RunFacts]]:
    rng = np.random.default_rng(7)
    for _ in range(400):
        chip, target = [("", "CPU"), ("Ascend910A", "Ascend"), ("Ascend910B1", "Ascend")][rng.integers(3)]
        devices, rows, classes = int(rng.choice([1, 2, 8])), int(rng.integers(40, 10_000)), int(rng.integers(3, 6))
        yield (
            [f"{key}={rng.choice(values)}" for key, values in VALUES.items()],
            RunFacts(devices, rows, classes, target, chip),
        )


def test_every_choice_of_ways_out_of_a_refusal_fits_together() -> None:
    counts = Counter[int]()
    for overrides, facts in _random_cases():
        try:
            load_config("demo", overrides, facts)
            continue
        except ConfigError as error:
            faults = error.faults
        counts[len(faults)] += 1
        assert len(faults) == len({fault.partition(" = ")[0] for fault in faults}), f"one line a key: {faults}"
        for way_out in _ways_out(faults):
            config = load_config("demo", [*overrides, *way_out], facts)
            plan_steps(config, facts.rows or 0, facts.devices or 0)
            divide_batch(config, facts.devices or 0, facts.rows)
    assert min(counts[number] for number in (1, 2, 3, 4)) > 20, counts


def test_nothing_is_said_of_facts_that_are_not_known() -> None:
    wide = config_from_mapping({"data": {"global_batch_size": 4102, "device_batch_size": 64}})
    assert fit_faults(wide, RunFacts()) == []
    assert len(fit_faults(wide, RunFacts(devices=1))) == 1
    check_fit(Config(), IMAGENET)
    with pytest.raises(ConfigError, match=r"data\.global_batch_size = 4096: must not exceed the 1040 training rows"):
        check_fit(Config(), FLOWERS)
