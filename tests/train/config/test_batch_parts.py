"""How devices divide a global batch: the table of the presets, the rule, and refusals whose way out leads out."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import pytest

from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.schedule import BatchParts, divide_batch, local_positions, plan_steps
from convnext_imagenet.train.config.source import load_config, preset_names
from convnext_imagenet.train.errors import ConfigError

DEVICES = (1, 2, 4, 8, 16, 32)
PRESETS = {  # (micro-batches, rows) on 1, 2, 4, 8, 16 and 32 devices; a number is the batch to pass instead
    "demo": ((1, 32), (1, 16), (1, 8), (1, 4), (1, 2), 64),
    "finetune": ((16, 32), (8, 32), (4, 32), (2, 32), (1, 32), (1, 16)),
    "medium": ((1, 64), (1, 32), (1, 16), (1, 8), (1, 4), (1, 2)),
    "nette96": ((1, 64), (1, 32), (1, 16), (1, 8), (1, 4), (1, 2)),
    "nette96-finetune": ((1, 32), (1, 16), (1, 8), (1, 4), (1, 2), 64),
    "nette96-recipe": ((1, 32), (1, 16), (1, 8), (1, 4), (1, 2), 64),
    "paper-base": ((128, 32), (64, 32), (32, 32), (16, 32), (8, 32), (4, 32)),
    "paper-large": ((128, 32), (64, 32), (32, 32), (16, 32), (8, 32), (4, 32)),
    "paper-small": ((64, 64), (32, 64), (16, 64), (8, 64), (4, 64), (2, 64)),
    "paper-tiny": ((32, 128), (16, 128), (8, 128), (4, 128), (2, 128), (1, 128)),
    "seed": ((8, 300), (4, 300), (2, 300), (1, 300), (1, 150), 2432),
    "small": ((1, 32), (1, 16), (1, 8), (1, 4), (1, 2), 64),
    "small-finetune": ((1, 32), (1, 16), (1, 8), (1, 4), (1, 2), 64),
    "v2-atto": ((16, 64), (8, 64), (4, 64), (2, 64), (1, 64), (1, 32)),
    "v2-base": ((16, 64), (8, 64), (4, 64), (2, 64), (1, 64), (1, 32)),
    "v2-tiny": ((16, 64), (8, 64), (4, 64), (2, 64), (1, 64), (1, 32)),
}


def _config(batch: int, most: int = 0, stated: int = 0) -> Config:
    """A configuration without the rules between keys, which would refuse some of the batches earlier."""
    config = config_from_mapping({"mix": {"prob": 0}})
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, global_batch_size=batch, device_batch_size=most),
        optimizer=dataclasses.replace(config.optimizer, accumulate_steps=stated),
    )


def _applied(config: Config, text: str) -> list[Config]:
    """The configuration with each of the ways out that an error line names."""
    ways = [re.findall(r"--set (\w+)\.(\w+)=(\d+)", way) for way in text.split(", or ")]
    assert all(ways), text
    return [_changed(config, way) for way in ways]


def _changed(config: Config, changes: list[tuple[str, str, str]]) -> Config:
    for section, name, value in changes:
        content = dataclasses.replace(getattr(config, section), **{name: int(value)})
        config = dataclasses.replace(config, **{section: content})
    return config


def test_the_table_names_every_preset() -> None:
    assert sorted(PRESETS) == preset_names()


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_divides_or_says_what_to_pass(preset: str, devices: int) -> None:
    expected = PRESETS[preset][DEVICES.index(devices)]
    if isinstance(expected, int):
        with pytest.raises(ConfigError, match=rf"pass --set data\.global_batch_size={expected}$"):
            divide_batch(load_config(preset), devices)
        divide_batch(load_config(preset, [f"data.global_batch_size={expected}"]), devices)
        return
    config = load_config(preset)
    parts = divide_batch(config, devices)
    assert (parts.devices, parts.micro_batches, parts.rows) == (devices, *expected)
    assert parts.rows >= min(32, config.data.global_batch_size // devices), "few rows only where the batch has no more"


@pytest.mark.parametrize(
    ("batch", "most", "devices", "expected"),
    [
        (4096, 0, 8, (1, 512)),  # no bound: the whole share
        (4096, 512, 8, (1, 512)),
        (4096, 511, 8, (2, 256)),
        (4096, 100_000, 1, (1, 4096)),
        (2400, 300, 5, (2, 240)),
        (2400, 100, 8, (3, 100)),
        (2400, 99, 8, (5, 60)),  # four parts would have 75 rows, which are no pairs
        (34, 17, 1, None),  # 17 rows are no pairs, and 2 are less than half
        (34, 4, 1, (17, 2)),  # half of the rows is accepted
        (33, 0, 1, (1, 33)),  # one part may be odd
        (33, 16, 1, None),
        (2, 2, 1, (1, 2)),
        (1, 2, 1, (1, 1)),
    ],
)
def test_a_device_takes_the_fewest_micro_batches_that_fit(
    batch: int, most: int, devices: int, expected: tuple[int, int] | None
) -> None:
    config = _config(batch, most)
    if expected is None:
        with pytest.raises(ConfigError, match=rf"data\.device_batch_size = {most}: {devices} device"):
            divide_batch(config, devices)
        return
    parts = divide_batch(config, devices)
    assert (parts.micro_batches, parts.rows) == expected


def _random_cases() -> Iterator[tuple[int, int, int, int]]:
    rng = np.random.default_rng(22)
    for _ in range(1500):
        devices = int(rng.choice([1, 2, 3, 4, 7, 8, 16, 32]))
        batch = int(rng.integers(1, 700)) * int(rng.choice([1, 2, devices, 2 * devices]))
        yield batch, devices, int(rng.choice([0, 2, 3, *rng.integers(2, 400, 3)])), int(rng.choice([0, 0, 1, 2, 3, 8]))


def test_every_division_keeps_the_rule_and_every_way_out_is_accepted() -> None:
    divided = refused = 0
    for batch, devices, most, stated in _random_cases():
        case = f"batch {batch}, {devices} devices, at most {most} rows, {stated} micro-batches stated"
        config = _config(batch, most, stated)
        try:
            parts = divide_batch(config, devices)
        except ConfigError as error:
            refused += 1
            for changed in _applied(config, str(error)):
                assert changed != config, case
                divide_batch(changed, devices)
            continue
        divided += 1
        count = parts.devices * parts.micro_batches
        assert (parts.devices, count * parts.rows) == (devices, batch), case
        places = [local_positions(batch, part, count) for part in (0, count - 1)]
        assert {len(place) for place in places} == {parts.rows}, case
        assert not stated or parts.micro_batches == stated, case
        if not most:
            assert parts.micro_batches == (stated or 1), case
            continue
        assert parts.rows <= most, case
        assert parts.micro_batches == 1 or 2 * parts.rows >= most, case
        fewer = [n * devices for n in range(1, parts.micro_batches)]
        assert all(batch / n > most or batch % (2 * n) for n in fewer), f"{case}: fewer micro-batches would do"
    assert min(divided, refused) > 200


@pytest.mark.parametrize(
    ("batch", "most", "devices", "way_out"),
    [
        (2402, 10**9, 32, r"pass --set data\.global_batch_size=2432$"),
        (10**9 + 1, 128, 8, r"pass --set data\.global_batch_size=1000000000$"),
        (1006, 128, 1, r"pass --set data\.global_batch_size=1008, or --set data\.device_batch_size=2$"),
        (1005, 128, 1, r"pass --set data\.global_batch_size=1008$"),
    ],
)
def test_a_refusal_takes_no_longer_for_huge_numbers(batch: int, most: int, devices: int, way_out: str) -> None:
    """A test that hangs, or needs all memory, has failed: once the nearest batch was looked for among all of them."""
    with pytest.raises(ConfigError, match=way_out):
        divide_batch(_config(batch, most), devices)


def test_the_batch_that_is_suggested_does_not_exceed_the_training_rows() -> None:
    config = _config(2400, 300)
    with pytest.raises(ConfigError, match=r"=2432$"):
        divide_batch(config, 32)
    with pytest.raises(ConfigError, match=r"=2368$"):
        divide_batch(config, 32, rows=2400)
    with pytest.raises(ConfigError, match=r"=64$"):
        divide_batch(_config(66), 32, rows=100)
    with pytest.raises(ConfigError, match=r"; use at most 20 devices, or records with more rows$"):
        divide_batch(_config(32), 32, rows=40)
    divide_batch(_config(40), 20, rows=40)


@pytest.mark.parametrize(("rows", "devices"), [(100, 1), (100, 8), (34, 16), (2, 1), (129, 64)])
def test_a_batch_of_more_than_the_training_rows_leads_to_one_that_divides(rows: int, devices: int) -> None:
    with pytest.raises(ConfigError, match=rf"must not exceed the {rows} training rows") as refused:
        plan_steps(_config(4096, 128), rows, devices)
    (changed,) = _applied(_config(4096, 128), str(refused.value))
    plan_steps(changed, rows, devices)
    divide_batch(changed, devices, rows)


@pytest.mark.parametrize(
    ("batch", "most", "stated", "devices", "words"),
    [
        (4096, 0, 4, 8, None),
        (4096, 128, 4, 8, None),  # both say the same
        (4096, 128, 2, 8, "accumulate_steps = 2: contradicts data.device_batch_size = 128, which gives 4 on 8 devices"),
        (4096, 128, 8, 8, "pass --set optimizer.accumulate_steps=0"),
        (4096, 0, 3, 8, "must be a multiple of 48; pass --set data.global_batch_size=4080"),
        (1004, 64, 3, 2, "pass --set optimizer.accumulate_steps=0 --set data.global_batch_size=1008"),
        (1004, 64, 0, 2, "into micro-batches of 32 to 64 rows in pairs; pass --set data.global_batch_size=1008, or "),
        (1004, 64, 0, 2, ", or --set data.device_batch_size=2"),
        (1004, 64, 3, 2, ", or --set optimizer.accumulate_steps=0 --set data.device_batch_size=2"),
    ],
)
def test_a_stated_number_of_micro_batches_must_divide_and_agree(
    batch: int, most: int, stated: int, devices: int, words: str | None
) -> None:
    config = _config(batch, most, stated)
    if words is None:
        assert divide_batch(config, devices).micro_batches == stated
        return
    with pytest.raises(ConfigError) as refused:
        divide_batch(config, devices)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_division_is_printed_as_an_equation() -> None:
    assert str(BatchParts(8, 4, 128)) == "global batch 4096 = 8 devices x 4 micro-batches x 128 rows"
    assert str(BatchParts(1, 1, 1)) == "global batch 1 = 1 device x 1 micro-batch x 1 row"


@pytest.mark.parametrize(
    ("preset", "overrides", "expected"),
    [
        ("paper-tiny", (), (128, 0)),
        ("paper-tiny", ("optimizer.accumulate_steps=2",), (0, 2)),
        ("paper-tiny", ("optimizer.accumulate_steps=0",), (128, 0)),
        ("paper-tiny", ("data.device_batch_size=64", "optimizer.accumulate_steps=2"), (64, 2)),
        ("old.toml", (), (0, 32)),
        ("old.toml", ("data.device_batch_size=64",), (64, 0)),
        ("old.toml", ("data.device_batch_size=0",), (0, 0)),
        ("old.toml", ("optimizer.accumulate_steps=0",), (0, 0)),
        ("old.toml", ("optimizer.accumulate_steps=8",), (0, 8)),
        ("old.toml", ("data.device_batch_size=64", "optimizer.accumulate_steps=0"), (64, 0)),
    ],
)
def test_an_override_of_one_key_replaces_the_other_key_of_the_file(
    preset: str, overrides: tuple[str, ...], expected: tuple[int, int], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.toml").write_text("[optimizer]\naccumulate_steps = 32\n")
    config = load_config(preset, overrides)
    assert (config.data.device_batch_size, config.optimizer.accumulate_steps) == expected
