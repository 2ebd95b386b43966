"""Checkpoints: what stays, what the pointers say, and what damage is noticed."""

from pathlib import Path

import numpy as np
import pytest

from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import ModelCard
from convnext_imagenet.records.artefact import begin
from convnext_imagenet.train import checkpoint as module
from convnext_imagenet.train.checkpoint import Checkpoints, Position
from convnext_imagenet.train.errors import TrainError

NETWORK = ConvNeXtConfig("small", (1, 1, 1, 1), (8, 8, 8, 8), num_classes=2)
CARD = ModelCard(NETWORK, (("n1", "one"), ("n2", "two")), EvalTransform(32))
WEIGHTS = init_parameters(NETWORK, seed=0)
TOP1 = (0.2, 0.6, 0.5, 0.6, None, 0.4)


def _state(epoch: int) -> dict[str, np.ndarray]:
    return {"optimizer.step": np.array(epoch, np.int32), "moment": np.full((2, 3), epoch, np.float32)}


def _run(root: Path, keep: int, epochs: int) -> Checkpoints:
    checkpoints = Checkpoints(root, begin(root, "run", {}), keep)
    for epoch in range(1, epochs + 1):
        checkpoints.save(Position(epoch, 10 * epoch, TOP1[epoch - 1]), WEIGHTS, _state(epoch), CARD)
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
    weights, state = checkpoints.load(Position(3, 30, 0.5))
    assert weights.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        np.testing.assert_array_equal(weights[name], value)
    for name, value in _state(3).items():
        np.testing.assert_array_equal(state[name], value)
        assert state[name].dtype == value.dtype


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
    with pytest.raises(TrainError, match="missing or damaged"):
        checkpoints.last()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = _run(tmp_path, keep=2, epochs=2)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "publish", full)
    with pytest.raises(TrainError, match=r"epoch-0003 could not be saved .*No space left.* the checkpoint before"):
        checkpoints.save(Position(3, 30, 0.9), WEIGHTS, _state(3), CARD)
    assert checkpoints.last() == Position(2, 20, 0.6)
    assert checkpoints.best() == Position(2, 20, 0.6)
    assert _kept(checkpoints) == [1, 2]
