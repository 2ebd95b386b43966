"""Golden values of every random stream of training: a run resumes with the numbers that it began with.

Regenerate, after raising DRAWS_VERSION: `.venv/bin/python tests/train/test_golden_draws.py` rewrites the table.
"""

import json
import math
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convnext_imagenet.ingest.labels.labels import LabelledSplit
from convnext_imagenet.ingest.shards.plan import plan_split
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.records.epoch_order import WINDOW_BLOCKS, balanced_order, epoch_order
from convnext_imagenet.train.augment.crop import crop_box, interpolation
from convnext_imagenet.train.augment.device import DeviceDraws, device_draws, drop_path_keep
from convnext_imagenet.train.augment.erase import erase_boxes, erase_colours, noise_bank, noise_start
from convnext_imagenet.train.augment.flip import flips
from convnext_imagenet.train.augment.mix import mix_draws
from convnext_imagenet.train.augment.randaugment import as_arrays, draw_ops
from convnext_imagenet.train.config.config import Config, config_from_mapping
from convnext_imagenet.train.config.policy import parse_policy
from convnext_imagenet.train.config.sections import AugmentSection, MixSection

TABLE = Path(__file__).with_name("golden_draws.json")
CHANGED = (
    "a draw changed: every existing RUN would resume with other numbers; "
    "raise DRAWS_VERSION (train/augment/device.py) if that is meant, then regenerate"
)
SEED, EPOCH, STEP, SIZE_PX = 5, 3, 2, 224
IDS = np.array([0, 1, 7, 41, 1_281_166, 5_000_000_000])
ERASE = AugmentSection(erase_prob=1.0, erase_count=2)
RATES = (0.0, 0.3, 0.5, 0.7)
BLOCK_ROWS = 3
BLOCK_ROWS_IN_ALL = 2 * WINDOW_BLOCKS * BLOCK_ROWS + 10  # two whole windows, and blocks of which the last is cut


def _each(draw: Callable[[int], Any]) -> list[Any]:
    return [draw(int(sample_id)) for sample_id in IDS]


def _mix(**keys: Any) -> dict[str, Any]:
    return mix_draws(MixSection(**keys), SEED, EPOCH, STEP, IDS, SIZE_PX)._asdict()


def _batches() -> dict[str, Any]:
    """The one draw of each of six steps."""
    steps = [mix_draws(MixSection(mode="batch"), SEED, EPOCH, step, IDS[:2], SIZE_PX) for step in range(6)]
    return {"boxes": [mix.boxes[0] for mix in steps], "lam": [mix.lam[0] for mix in steps]}


def _ops(policy: str) -> dict[str, Any]:
    ids, arguments = as_arrays(_each(lambda one: draw_ops(parse_policy(policy), SEED, EPOCH, one)))
    return {"ids": ids, "arguments": arguments}


def _shard_order(rows: int) -> np.ndarray:
    names = [f"k{number:02d}" for number in range(rows)]
    split = LabelledSplit("train", names, names, array("q", [1] * rows), array("i", [0] * rows))
    return plan_split(split, SEED, is_shuffled=True).order


def _first_weights() -> dict[str, Any]:
    network = ConvNeXtConfig("tiny", (1, 1, 1, 1), (8, 8, 8, 8), num_classes=3)
    return {name: value.ravel()[:3] for name, value in init_parameters(network, SEED).items() if "pwconv1" in name}


def _config(erase_mode: str) -> Config:
    augment = {"device": "all", "erase_prob": 1.0, "erase_mode": erase_mode}
    return config_from_mapping({"augment": augment, "mix": {"mode": "elem"}, "train": {"seed": SEED}})


def _step(erase_mode: str) -> dict[str, Any]:
    drawn = device_draws(_config(erase_mode), EPOCH, STEP, IDS, RATES)._asdict()
    return {name: draw for name, draw in drawn.items() if draw is not None}


STREAMS: dict[str, Callable[[], Any]] = {
    "crop": lambda: _each(lambda one: crop_box(SEED, EPOCH, one, 375, 500, (0.08, 1.0), (0.75, 4 / 3))),
    "interpolation": lambda: [interpolation(SEED, EPOCH, one, "random") for one in range(24)],
    "flip": lambda: flips(SEED, EPOCH, np.arange(24), 0.5),
    "randaugment": lambda: _ops("rand-m9-mstd0.5-n4-inc1"),
    "erase": lambda: _each(lambda one: erase_boxes(ERASE, SEED, EPOCH, one, SIZE_PX)),
    "erase colour": lambda: _each(lambda one: erase_colours(ERASE, SEED, EPOCH, one)),
    "erase noise": lambda: _each(lambda one: noise_start(SEED, EPOCH, one)),
    "erase noise bank": lambda: noise_bank(SEED)[:: 1 << 18],
    "mixup": lambda: _mix(mode="elem", cutmix_alpha=0.0),
    "cutmix": lambda: _mix(mode="elem", mixup_alpha=0.0),
    "cutmix minmax": lambda: _mix(mode="elem", mixup_alpha=0.0, cutmix_minmax=(0.25, 0.5)),
    "mix batch": _batches,
    "mix pair": lambda: _mix(mode="pair"),
    "mix elem": lambda: _mix(mode="elem", prob=0.8),
    "drop path": lambda: drop_path_keep(SEED, EPOCH, IDS, RATES),
    "epoch order": lambda: epoch_order(20, SEED, EPOCH),
    "block order": lambda: epoch_order(BLOCK_ROWS_IN_ALL, SEED, EPOCH, BLOCK_ROWS),
    "balanced order": lambda: balanced_order(np.array([0] * 13 + [1] * 4 + [2]), SEED, EPOCH, 0.5),
    "shard order": lambda: _shard_order(20),
    "first weights": _first_weights,
    "step, erase pixel": lambda: _step("pixel"),
    "step, erase rand": lambda: _step("rand"),
}


def _plain(value: Any) -> Any:
    """The value as JSON keeps it; floats with the digits of a float32."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.8g}")
    return value.item() if isinstance(value, np.generic) else value


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of every number, word and truth value in the table's entry."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{path}[{name}]")
    else:
        yield path, value


def _is_same(found: Any, expected: Any) -> bool:
    """Whether two leaves are equal; the last bits of a float may differ between C libraries."""
    if type(found) is not type(expected):
        return False
    return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-7) if isinstance(found, float) else found == expected


def _golden() -> dict[str, Any]:
    return json.loads(TABLE.read_text())


@pytest.mark.parametrize("stream", STREAMS)
def test_golden_draws(stream: str) -> None:
    found, expected = dict(_leaves(_plain(STREAMS[stream]()))), dict(_leaves(_golden()[stream]))
    assert set(found) == set(expected), f"{stream}: {CHANGED}"
    others = {at: (found[at], value) for at, value in expected.items() if not _is_same(found[at], value)}
    assert not others, f"{stream}: {CHANGED}"


def test_the_table_has_these_streams_and_no_others() -> None:
    assert set(_golden()) == set(STREAMS)


def test_every_draw_of_a_step_is_in_the_table() -> None:
    missing = set(DeviceDraws._fields) - _step("pixel").keys()
    assert not missing, f"no golden values of {missing}; switch the augmentation on in `_config`, then regenerate"


@pytest.mark.parametrize("stream", STREAMS)
def test_a_golden_entry_tells_draws_apart(stream: str) -> None:
    """Values that are all alike would pin nothing."""
    assert len({repr(value) for _, value in _leaves(_golden()[stream])}) > 1


@pytest.mark.parametrize(("stream", "field"), [("erase", None), ("cutmix", "boxes"), ("cutmix minmax", "boxes")])
def test_golden_boxes_are_real_and_not_symmetric(stream: str, field: str | None) -> None:
    entry = _golden()[stream]
    boxes = np.array(entry if field is None else entry[field]).reshape(-1, 4)
    top, left, bottom, right = boxes.T
    assert ((bottom > top) & (right > left)).all()
    assert (top != left).any()


def regenerate() -> None:
    """Rewrite the table, one stream a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(_plain(draw()))}" for name, draw in STREAMS.items()]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    regenerate()
