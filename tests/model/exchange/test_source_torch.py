"""PyTorch's checkpoints: weights as every program wraps them, and nothing in a file is ever run.

Needs the extra `torch`; `make test-parity` runs it where that is installed.
"""

import argparse
import os
import pickle

import numpy as np
import pytest

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.source_file import read_source

torch = pytest.importorskip("torch", reason="reading .pth files needs the extra torch")

RAW = {"head.bias": torch.tensor([1.0, 2.0]), "head.weight": torch.ones(2, 3)}
EMA = {"head.bias": torch.tensor([3.0, 4.0]), "head.weight": torch.zeros(2, 3)}


def bias(path, use=None) -> tuple[list[float], str]:
    tensors, used = read_source(path).choose(use)
    assert set(tensors) == {"head.bias", "head.weight"}
    return tensors["head.bias"].tolist(), used


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", [None, "model", "state_dict", "module"])
def test_weights_are_found_where_programs_keep_them(tmp_path, key, is_zip):
    torch.save({key: RAW} if key else RAW, tmp_path / "w", _use_new_zipfile_serialization=is_zip)
    assert bias(tmp_path / "w") == ([1.0, 2.0], "raw")


@pytest.mark.parametrize("keys", [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_a_training_checkpoint_holds_the_average_too(tmp_path, keys):
    value = {keys[0]: RAW, keys[1]: EMA, "epoch": 299, "args": argparse.Namespace(lr=4e-3), "optimizer": {"state": {}}}
    torch.save(value, tmp_path / "w")
    assert read_source(tmp_path / "w").holds_both
    assert bias(tmp_path / "w") == ([3.0, 4.0], "ema")
    assert bias(tmp_path / "w", "raw") == ([1.0, 2.0], "raw")


def test_an_average_alone_is_taken(tmp_path):
    torch.save({"model_ema": EMA}, tmp_path / "w")
    assert bias(tmp_path / "w") == ([3.0, 4.0], "ema")


def test_an_empty_average_is_none(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "ema": {"decay": 0.9}, "state_dict": {}}, tmp_path / "w.pth")
    tensors, used = read_source(tmp_path / "w.pth").choose(None)
    assert (list(tensors), used) == (["a"], "raw")


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    torch.save({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"a is torch\.float8_e4m3fn"):
        read_source(tmp_path / "w.pth")


def test_half_precisions_keep_their_values(tmp_path):
    torch.save({"a": torch.tensor([1.5, 3e38]).bfloat16(), "b": torch.tensor([0.1]).half()}, tmp_path / "w")
    tensors, _ = read_source(tmp_path / "w").choose(None)
    assert tensors["a"].dtype == np.float32
    assert torch.equal(torch.from_numpy(tensors["a"]), torch.tensor([1.5, 3e38]).bfloat16().float())
    assert tensors["b"].dtype == np.float16


def refusal(path) -> str:
    with pytest.raises(ModelError) as caught:
        read_source(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Bomb:
    """Runs a command when it is unpickled as pickle does it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize(
    "wrap", [lambda bomb: bomb, lambda bomb: {"model": RAW, "epoch": bomb}], ids=["bare", "beside"]
)
def test_code_in_a_file_is_not_run(tmp_path, wrap):
    value = wrap(Bomb(f"touch {tmp_path / 'exploded'}"))
    torch.save(value, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(value))
    for name in ("zip.pth", "plain.pth"):
        assert "holds more than weights" in refusal(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_a_whole_model_is_refused_with_the_way_out(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "w")
    message = refusal(tmp_path / "w")
    assert "holds a whole pickled model (torch.nn.modules.linear.Linear)" in message
    assert "save only its state_dict()" in message


@pytest.mark.parametrize("kept", [0.3, 0.95])
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_truncated_file_is_refused(tmp_path, kept, is_zip):
    torch.save({"a": torch.zeros(999)}, tmp_path / "w", _use_new_zipfile_serialization=is_zip)
    data = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(data[: int(len(data) * kept)])
    assert "truncated, damaged or not PyTorch weights" in refusal(tmp_path / "w")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"epoch": 3, "lr": 0.1}, "holds no weights (it holds epoch, lr)"),
        ([1, 2], "holds a list, not weights by name"),
        ({"a": torch.eye(3).to_sparse()}, "a is quantised or sparse"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, value, expected):
    torch.save(value, tmp_path / "w")
    assert expected in refusal(tmp_path / "w")


def test_a_zip_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    assert "a zip archive that PyTorch did not write, such as NumPy's .npz; give a" in refusal(tmp_path / "w.npz")
