"""What a run says before its first step: each line for the case that needs it, and for no preset that works."""

import pytest

from convnext_imagenet.train.config.schedule import BatchParts, plan_steps
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.run.advice import Room, checkpoint_bytes, room_warnings, start_warnings, step_bytes
from convnext_imagenet.train.run.health import size_warnings
from convnext_imagenet.train.step.parameters import network_config

FIVE_CLASSES = ("model.num_classes=0", "data.global_batch_size=64", "train.epochs=20", "schedule.warmup_epochs=1")
GIB = 1 << 30


@pytest.mark.parametrize(
    ("preset", "overrides", "rows", "said"),
    [
        ("paper-tiny", FIVE_CLASSES, 1040, ["schedule.base_lr = 0.004: 8 times", "ema.decay = 0.9999"]),
        ("paper-tiny", (*FIVE_CLASSES, "schedule.base_lr=5e-4", "ema.decay=0"), 1040, []),
        ("paper-tiny", (*FIVE_CLASSES, "ema.warmup=true", "optimizer.name=lamb"), 1040, []),
        ("demo", ("data.global_batch_size=700",), 1399, ["only 8 steps", "leaves out 699 of 1,399 training rows"]),
        ("demo", ("ema.decay=0.9999",), 1399, ["ema.decay = 0.9999: after 344 steps 97 % of the average"]),
        ("v2-atto", ("model.num_classes=0",), 1_281_167, ["optimizer.layer_decay = 0.9 is for fine-tuning"]),
        ("finetune", ("train.epochs=1",), 300_000, ["optimizer.layer_decay = 0.7 is for fine-tuning"]),
        ("paper-tiny", (), 1_281_167, []),
        ("seed", (), 1_281_167, []),
        ("demo", (), 1399, []),
        ("nette96", (), 12_894, []),
        ("nette96-recipe", (), 12_894, []),
        ("medium", (), 12_894, []),
    ],
)
def test_each_line_comes_where_it_is_needed(
    preset: str, overrides: tuple[str, ...], rows: int, said: list[str]
) -> None:
    config = load_config(preset, overrides)
    found = start_warnings(config, plan_steps(config, rows), has_weights=False)
    assert len(found) == len(said), found
    for line, words in zip(found, said, strict=True):
        assert words in line


def test_a_run_with_given_weights_is_not_told_that_it_lacks_them() -> None:
    config = load_config("finetune", ["train.epochs=1", "data.global_batch_size=32"])
    assert start_warnings(config, plan_steps(config, 320), has_weights=True) == []


@pytest.mark.parametrize(("size", "lines"), [(64, 0), (96, 0), (32, 1), (224, 1)])
def test_an_evaluation_size_far_from_the_training_size_is_said(size: int, lines: int) -> None:
    assert len(size_warnings(load_config("nette96", [f"data.eval_size_px={size}"]).data)) == lines


def test_what_does_not_fit_the_disk_or_the_memory_is_said_with_both_numbers() -> None:
    config = load_config("paper-base", ["ema.decay=0.9999"])
    network, parts = network_config(config.model, 1000), BatchParts(1, 128, 32)
    one, step = checkpoint_bytes(config, network), step_bytes(config, network, parts.rows)
    assert 88e6 * 4 * 4 < one < 89e6 * 4 * 4
    assert room_warnings(config, network, parts, Room(5 * one, step), epochs=300) == []
    assert room_warnings(config, network, parts, Room(), epochs=300) == []
    disk, memory = room_warnings(config, network, parts, Room(4 * one, step - 1), epochs=300)
    assert disk.startswith("checkpoints will need about 6,759 MiB (1,352 MiB each), and the disk has room for")
    assert memory.startswith("a step of 32 rows at 224 px needs at least")
    assert room_warnings(config, network, parts, Room(2 * one, step), epochs=1) == [], "only as many as epochs"
    everything = load_config("paper-base", ["train.keep_checkpoints=0"])
    (line,) = room_warnings(everything, network, parts, Room(disk=300 * GIB), epochs=300)
    assert "set train.keep_checkpoints = 0 (which keeps all)" in line
