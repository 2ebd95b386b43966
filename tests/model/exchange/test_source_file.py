"""Files of other programs: read by what they are, never by their name, and one line for each kind of bad file."""

import importlib.util
import json
import struct
import sys
import zipfile

import mindspore as ms
import numpy as np
import pytest
import safetensors.numpy

from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.source_file import SourceFile, read_source

TENSORS = {"b.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.array([1.5, -2.0], np.float16)}


def refusal(path) -> str:
    with pytest.raises(ModelError) as caught:
        read_source(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty; copy it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 114\n",
            "a Git LFS pointer, not the weights",
        ),
        (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "a web page, not weights"),
        (b"{'model': 3}\n" * 9, "text, not weights; give a .safetensors, a PyTorch .pth or a MindSpore .ckpt"),
        (bytes(range(7, 256)), "truncated, damaged or of another format, not weights"),
        (b"\n3\n\x08a.weight\x12'\x08\x02\x08", "truncated, damaged or not a MindSpore checkpoint; copy it again"),
        (struct.pack("<Q", 3) + b"{]}" + bytes(9), "truncated or damaged"),
        (b"\x08\x08\x12\x11convnext_imagenet:", "a graph (ONNX or MindIR), not weights by name"),
        (b"\n\x031.1\x12\tMindSpore*\x062.10.0", "a graph (ONNX or MindIR), not weights by name"),
    ],
    ids=["empty", "lfs", "html", "text", "bytes", "cut ckpt", "bad header", "onnx", "mindir"],
)
def test_what_holds_no_weights_is_named(tmp_path, content, expected):
    for name in ("w.pth", "w.safetensors", "w.ckpt"):
        (tmp_path / name).write_bytes(content)
        assert expected in refusal(tmp_path / name)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.pth")
    assert "a folder" in refusal(tmp_path)


def test_safetensors_under_any_name(tmp_path):
    (tmp_path / "weights.bin").write_bytes(safetensors.numpy.save(TENSORS))
    tensors, used = read_source(tmp_path / "weights.bin").choose(None)
    assert used == "raw"
    assert tensors.keys() == TENSORS.keys()
    assert all(tensors[name].tobytes() == array.tobytes() for name, array in TENSORS.items())


@pytest.mark.parametrize("kept", [20, 0.5, 0.99])
def test_truncated_safetensors_are_refused(tmp_path, kept):
    data = safetensors.numpy.save(TENSORS)
    (tmp_path / "w").write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    refusal(tmp_path / "w")


def hand_made(entries: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A safetensors file of types that NumPy lacks."""
    header, data = {}, b""
    for name, (dtype, shape, values) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_bfloat16_becomes_float32_exactly(tmp_path):
    values = np.array([1.0, -2.5, 3.0e38, 1e-40], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    single = np.float32([7.0])
    (tmp_path / "w").write_bytes(
        hand_made({"a": ("F32", [1], single.tobytes()), "b": ("BF16", [2, 2], upper.tobytes())})
    )
    tensors, _ = read_source(tmp_path / "w").choose(None)
    assert tensors["a"].tolist() == [7.0]
    assert tensors["b"].shape == (2, 2)
    assert tensors["b"].dtype == np.float32
    assert (tensors["b"].reshape(-1).view(np.uint32) >> 16).tolist() == upper.tolist()


def test_quantised_tensors_are_refused(tmp_path):
    (tmp_path / "w").write_bytes(hand_made({"a": ("F8_E4M3", [1], b"\0")}))
    assert "a is F8_E4M3, a quantised type" in refusal(tmp_path / "w")


def save_ckpt(path, arrays) -> None:
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()], str(path))


def test_a_mindspore_checkpoint_under_any_name(tmp_path):
    save_ckpt(tmp_path / "w.ckpt", {**TENSORS, "global_step": np.int32(7)})
    (tmp_path / "w.ckpt").rename(tmp_path / "weights")
    tensors, used = read_source(tmp_path / "weights").choose(None)
    assert used == "raw"
    assert {name: array.tolist() for name, array in tensors.items()} == {
        name: array.tolist() for name, array in {**TENSORS, "global_step": np.int32(7)}.items()
    }


def test_plain_values_of_a_mindspore_checkpoint_are_left_out(tmp_path):
    ms.save_checkpoint(
        [{"name": "a", "data": ms.Tensor([1.0])}], str(tmp_path / "w.ckpt"), append_dict={"arch": "tiny"}
    )
    tensors, _ = read_source(tmp_path / "w.ckpt").choose(None)
    assert list(tensors) == ["a"]


@pytest.mark.parametrize("length", [0x3C20, 0x003C])
def test_a_header_whose_length_looks_like_markup_is_no_web_page(tmp_path, length):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    if len(header) != length:
        header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    (tmp_path / "w").write_bytes(struct.pack("<Q", length) + header + struct.pack("<f", 2.5))
    tensors, _ = read_source(tmp_path / "w").choose(None)
    assert tensors["a"].tolist() == [2.5]


def test_bfloat16_of_mindspore(tmp_path):
    half = ms.Tensor(np.array([1.5, 2.0], np.float32)).astype(ms.bfloat16)
    ms.save_checkpoint([{"name": "a", "data": half}], str(tmp_path / "w.ckpt"))
    tensors, _ = read_source(tmp_path / "w.ckpt").choose(None)
    assert (tensors["a"].dtype, tensors["a"].tolist()) == (np.float32, [1.5, 2.0])


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_mindspore_checkpoint_is_refused_without_noise(tmp_path, kept, capfd):
    save_ckpt(tmp_path / "w.ckpt", {"a": np.zeros((50, 50), np.float32)})
    data = (tmp_path / "w.ckpt").read_bytes()
    (tmp_path / "w.ckpt").write_bytes(data[: int(len(data) * kept)])
    assert "truncated, damaged or not a MindSpore checkpoint" in refusal(tmp_path / "w.ckpt")
    assert capfd.readouterr() == ("", "")


def test_the_average_is_used_where_there_is_one(tmp_path):
    save_ckpt(tmp_path / "w.ckpt", {"head.bias": np.float32([1]), "ema.head.bias": np.float32([2])})
    file = read_source(tmp_path / "w.ckpt")
    assert file.holds_both
    for use, expected in ((None, (2.0, "ema")), ("ema", (2.0, "ema")), ("raw", (1.0, "raw"))):
        tensors, used = file.choose(use)
        assert (tensors["head.bias"].item(), used) == expected


def test_what_a_file_does_not_hold_cannot_be_chosen(tmp_path):
    with pytest.raises(ModelError, match="holds no moving average of the weights; pass --use raw"):
        SourceFile(tmp_path, TENSORS, None).choose("ema")
    with pytest.raises(ModelError, match="holds only a moving average of the weights; pass --use ema"):
        SourceFile(tmp_path, None, TENSORS).choose("raw")


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x80\x02\x8a"], ids=["zip", "pickle"])
def test_pytorchs_files_need_the_extra(tmp_path, head):
    (tmp_path / "w.pth").write_bytes(head + bytes(99))
    assert f"PyTorch is not installed; run `{sys.executable} -m pip install 'convnext_imagenet[torch]'`" in refusal(
        tmp_path / "w.pth"
    )


def test_an_index_needs_all_its_files_and_agrees_with_them(tmp_path):
    names = [f"model-{n:05d}-of-00002.safetensors" for n in (1, 2)]
    for number, name in enumerate(names):
        array = np.full(3, number, np.float32)
        (tmp_path / name).write_bytes(safetensors.numpy.save({f"t{number}": array}))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"t0": names[0], "t1": names[1]}}))
    tensors, _ = read_source(index).choose(None)
    assert {name: array.tolist() for name, array in tensors.items()} == {"t0": [0] * 3, "t1": [1] * 3}
    with pytest.raises(ModelError, match=r"part 2 of 2 .* give the index beside it, model\.safetensors\.index\.json"):
        read_source(tmp_path / names[1])
    for text, fault in (
        ('{"weight_map": {"t0": "a", "t1": "../b"}}', "in another folder"),
        ('{"weight_map": {"t0": "absent.safetensors"}}', r"1 of its 1 files are missing \(absent"),
        (json.dumps({"weight_map": {"t0": names[0], "t9": names[1]}}), "does not agree with its files about 2 tensors"),
        ("{}", "no index of safetensors files"),
    ):
        index.write_text(text)
        with pytest.raises(ModelError, match=fault):
            read_source(index)


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        (["w/code/__torch__.py", "w/constants.pkl", "w/data.pkl"], "a TorchScript program"),
        (["w/archive_format", "w/models/model.json"], "a program of torch.export"),
    ],
)
def test_programs_are_told_what_they_are_without_pytorch(tmp_path, members, kind):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        for name in members:
            file.writestr(name, "x")
    with pytest.raises(ModelError, match=f"{kind}, not only weights; .* save its state_dict"):
        read_source(tmp_path / "w.pt")
