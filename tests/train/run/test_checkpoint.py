"""Checkpoints: what stays, what the pointers say, and what damage is noticed."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convnext_imagenet.base.errors import FailedError
from convnext_imagenet.base.protocol import begin
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.serve.pointers import resolve_checkpoint
from convnext_imagenet.train.errors import TrainError
from convnext_imagenet.train.run.checkpoint import Checkpoints, Position, Snapshot

NETWORK = ConvNeXtConfig("small", (1, 1, 1, 1), (8, 8, 8, 8), num_classes=2)
CARD = ModelCard(NETWORK, (("n1", "one"), ("n2", "two")), EvalTransform(32))
WEIGHTS = init_parameters(NETWORK, seed=0)
TOP1 = (0.2, 0.6, 0.5, 0.6, None, 0.4)


def _state(epoch: int) -> dict[str, np.ndarray]:
    return {"optimizer.step": np.array(epoch, np.int32), "moment": np.full((2, 3), epoch, np.float32)}


def _snapshot(epoch: int, average: dict[str, np.ndarray] | None = None) -> Snapshot:
    return Snapshot(WEIGHTS, _state(epoch), average or {})


def _run(root: Path, keep: int, epochs: int, keep_best: int = 1) -> Checkpoints:
    checkpoints = Checkpoints(root, begin(root, "run", {}), keep, keep_best)
    for epoch in range(1, epochs + 1):
        checkpoints.save(Position(epoch, 10 * epoch, TOP1[epoch - 1]), _snapshot(epoch), CARD)
    return checkpoints


def _kept(checkpoints: Checkpoints) -> list[int]:
    names = {path.name.split(".")[0] for path in checkpoints.folder.iterdir()}
    assert len(list(checkpoints.folder.iterdir())) == 3 * len(names)
    return sorted(int(name.removeprefix("epoch-")) for name in names)


@pytest.mark.parametrize(("keep", "kept"), [(0, [1, 2, 3, 4, 5, 6]), (1, [2, 6]), (2, [2, 5, 6]), (5, [2, 3, 4, 5, 6])])
def test_the_latest_and_the_best_stay(tmp_path: Path, keep: int, kept: list[int]) -> None:
    checkpoints = _run(tmp_path, keep, epochs=6)
    assert _kept(checkpoints) == kept
    assert checkpoints.last() == Position(6, 60, 0.4)
    assert checkpoints.best() == Position(2, 20, 0.6)  # the earlier of two equals
    assert (tmp_path / "best").read_text() == "epoch-0002\n"
    assert (tmp_path / "last").read_text() == "epoch-0006\n"


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=3)
    loaded = checkpoints.load(Position(3, 30, 0.5))
    assert loaded.weights.keys() == WEIGHTS.keys()
    assert not loaded.average
    for name, value in WEIGHTS.items():
        np.testing.assert_array_equal(loaded.weights[name], value)
    for name, value in _state(3).items():
        np.testing.assert_array_equal(loaded.state[name], value)
        assert loaded.state[name].dtype == value.dtype


def test_the_average_is_saved_beside_the_weights_and_the_better_of_both_counts(tmp_path: Path) -> None:
    checkpoints = _run(tmp_path, keep=1, epochs=2)  # the weights' best is 0.6, in epoch 2
    average = {name: value + 1 for name, value in WEIGHTS.items()}
    checkpoints.save(Position(3, 30, 0.1, ema_top1=0.7), _snapshot(3, average), CARD)
    checkpoints.save(Position(4, 40, 0.65, ema_top1=0.2), _snapshot(4, average), CARD)
    best = checkpoints.best()
    assert best is not None
    assert (best.epoch, best.best_numbers("top1")[0], best.best_weights("top1")) == (3, 0.7, "ema")
    assert (tmp_path / "best").read_text() == "epoch-0003.ema\n"
    assert resolve_checkpoint(tmp_path).name == "epoch-0003.ema.safetensors"
    assert Position(4, 40, 0.65, ema_top1=0.2).best_weights("top1") == "weights"
    loaded = checkpoints.load(best)
    for name, value in average.items():
        np.testing.assert_array_equal(loaded.average[name], value)
    assert {path.name for path in checkpoints.folder.glob("epoch-0003*")} == {
        "epoch-0003.json",
        *(f"epoch-0003.{part}.safetensors" for part in ("weights", "ema", "state")),
    }


@pytest.mark.parametrize(("keep_best", "kept"), [(1, [2, 6]), (2, [2, 4, 6]), (3, [2, 3, 4, 6])])
def test_several_of_the_best_stay(tmp_path: Path, keep_best: int, kept: list[int]) -> None:
    assert _kept(_run(tmp_path, keep=1, epochs=6, keep_best=keep_best)) == kept


def test_a_checkpoint_within_an_epoch_rotates_and_makes_way_for_the_next(tmp_path: Path) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=1)
    for step in (13, 17):
        checkpoints.save(Position(1, step, within={"steps": step - 10}), _snapshot(step), CARD)
        assert (tmp_path / "last").read_text() == f"step-{step:08d}\n"
        assert len(list(checkpoints.folder.glob("step-*.json"))) == 1
    last = checkpoints.last()
    assert last is not None
    assert (last.epoch, last.step, last.within) == (1, 17, {"steps": 7})
    assert int(checkpoints.load(last).state["optimizer.step"]) == 17
    checkpoints.save(Position(2, 20, 0.3), _snapshot(2), CARD)
    assert not list(checkpoints.folder.glob("step-*"))
    assert (tmp_path / "best").read_text() == "epoch-0002\n"


def test_a_new_run_has_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=0)
    assert checkpoints.last() is None
    assert checkpoints.best() is None


@pytest.mark.parametrize("part", ["weights.safetensors", "state.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_a_damaged_last_checkpoint_is_refused_with_the_others(tmp_path: Path, part: str, damage: str) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=3)
    path = checkpoints.folder / f"epoch-0003.{part}"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.unlink()
    if damage != "missing":
        path.write_bytes(data if damage == "flipped" else data[:-5])
    with pytest.raises(TrainError, match=r"last: names 'epoch-0003', which is missing or damaged .*\(epoch-0002\)"):
        checkpoints.last()


@pytest.mark.parametrize("content", ["", "epoch-0009", "../../plan", "epoch-0002.weights"])
def test_a_pointer_to_nothing_is_refused(tmp_path: Path, content: str) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=2)
    (tmp_path / "last").write_text(content)
    with pytest.raises(TrainError, match=r"missing or damaged .*, or remove .*checkpoints, .*last and .*best to begin"):
        checkpoints.last()
    shutil.rmtree(checkpoints.folder)
    for pointer in ("last", "best"):
        (tmp_path / pointer).unlink()
    checkpoints.check_pointers()
    assert checkpoints.last() is None
    checkpoints.save(Position(1, 10, 0.2), _snapshot(1), CARD)
    assert checkpoints.best() == checkpoints.last() == Position(1, 10, 0.2)


@pytest.mark.parametrize(
    ("pointer", "words"),
    [
        ("last", r"last: is missing; write the name of the newest checkpoint, epoch-0003, .* to resume, or remove "),
        ("best", r"best: is missing; write the name of the best checkpoint, epoch-0002, into it"),
    ],
)
def test_a_missing_pointer_beside_checkpoints_is_refused_with_its_content(
    pointer: str, words: str, tmp_path: Path
) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=3)
    before = (tmp_path / pointer).read_text()
    (tmp_path / pointer).unlink()
    with pytest.raises(TrainError, match=words) as refused:
        checkpoints.check_pointers()
    named = re.search(r"checkpoint, ([\w.-]+),", str(refused.value))
    assert named is not None
    assert f"{named[1]}\n" == before
    (tmp_path / pointer).write_text(before)
    checkpoints.check_pointers()


def test_a_crash_before_a_pointer_was_first_written_is_no_damage(tmp_path: Path) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=1)
    for pointer in ("best", "last"):
        (tmp_path / pointer).unlink()
    checkpoints.check_pointers()
    (tmp_path / "last").write_text("epoch-0001\n")
    with pytest.raises(TrainError, match="best: is missing"):
        checkpoints.check_pointers()

    run = tmp_path / "evaluated later"
    checkpoints = Checkpoints(run, begin(run, "run", {}), 2, 1)
    checkpoints.save(Position(1, 10), _snapshot(1), CARD)
    checkpoints.save(Position(2, 20, 0.5), _snapshot(2), CARD)
    (run / "best").unlink()
    (run / "last").write_text("epoch-0001\n")
    checkpoints.check_pointers()


def test_a_full_disk_leaves_the_checkpoint_before(small_disk: Path, fill: Any) -> None:
    checkpoints = _run(small_disk, keep=2, epochs=2)
    fill(small_disk)
    with pytest.raises(
        FailedError, match=r"epoch-0003 .* space left on device.*; checkpoint epoch-0002 is whole: free"
    ):
        checkpoints.save(Position(3, 30, 0.9), _snapshot(3), CARD)
    assert checkpoints.last() == Position(2, 20, 0.6)
    assert checkpoints.best() == Position(2, 20, 0.6)
    assert _kept(checkpoints) == [1, 2]


def test_a_full_disk_before_the_first_checkpoint_promises_nothing(small_disk: Path, fill: Any) -> None:
    checkpoints = _run(small_disk, keep=2, epochs=0)
    fill(small_disk)
    with pytest.raises(FailedError, match="there is no checkpoint yet: free disk space") as full:
        checkpoints.save(Position(1, 10, 0.9), _snapshot(1), CARD)
    assert full.value.exit_code == 74


@pytest.mark.parametrize("part", ["weights", "average", "state"])
def test_a_value_that_is_not_finite_is_never_published(part: str, tmp_path: Path) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=1)
    snapshot = dataclasses.replace(_snapshot(2), **{part: {"head.bias": np.array([1, np.inf], np.float32)}})
    with pytest.raises(TrainError, match=r"epoch-0002 is not saved, head\.bias has values that are not finite"):
        checkpoints.save(Position(2, 20, 0.9), snapshot, CARD)
    assert _kept(checkpoints) == [1]


@pytest.mark.parametrize(
    ("by", "position", "other", "is_better", "model"),
    [
        ("top1", Position(2, 20, 0.5), None, True, "weights"),
        ("top1", Position(2, 20, 0.0), None, True, "weights"),
        ("top1", Position(2, 20), Position(1, 10, 0.5), False, "weights"),
        ("top1", Position(2, 20, 0.5), Position(1, 10, 0.5), False, "weights"),
        ("top1", Position(2, 20, 0.4, 0.6), Position(1, 10, 0.5), True, "ema"),
        ("top1", Position(2, 20, 0.5, loss=1.1), Position(1, 10, 0.5, loss=1.2), True, "weights"),
        ("top1", Position(2, 20, 0.5, loss=1.2), Position(1, 10, 0.5, loss=1.2), False, "weights"),
        ("top1", Position(2, 20, 0.5, loss=1.3), Position(1, 10, 0.5, loss=1.2), False, "weights"),
        ("top1", Position(2, 20, 0.5, 0.5, loss=1.3, ema_loss=1.0), Position(1, 10, 0.5, loss=1.2), True, "ema"),
        ("loss", Position(2, 20, 0.6, loss=1.2), Position(1, 10, 0.5, loss=1.2), True, "weights"),
        ("loss", Position(2, 20, 0.4, 0.6, loss=1.0, ema_loss=1.5), Position(1, 10, 0.9, loss=1.2), True, "weights"),
        ("loss", Position(2, 20, 0.9, loss=1.3), Position(1, 10, 0.5, loss=1.2), False, "weights"),
        ("loss", Position(2, 20, 0.9), Position(1, 10, 0.5, loss=1.2), False, "weights"),
        ("loss", Position(2, 20, 0.9, 0.8, loss=None, ema_loss=1.1), Position(1, 10, 0.5, loss=1.2), True, "ema"),
    ],
)
def test_the_better_checkpoint_is_that_of_the_chosen_number(
    by: Any, position: Position, other: Position | None, is_better: bool, model: str
) -> None:
    assert position.is_better_than(other, by) == is_better
    assert position.best_weights(by) == model
