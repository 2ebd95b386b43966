"""A header is shown as it is, or refused in one line; no value is read."""

import json
import struct

import pytest

from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.weights.inspecting import inspect_weights, inspection_lines

NAME = "convnext_imagenet.weights"


def altered(stated=None, card=None):
    """A change of the header: entries of our metadata, entries of the card in it; None removes one."""

    def change(header: dict) -> dict:
        ours = json.loads(header["__metadata__"][NAME])
        ours["card"] = json.dumps(json.loads(ours["card"]) | (card or {}))
        ours = {name: value for name, value in (ours | (stated or {})).items() if value is not None}
        return header | {"__metadata__": {NAME: json.dumps(ours)}}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (altered({"card": None}), "header is damaged"),
        (altered({"card": "[]"}), "header is damaged"),
        (altered({"card": 5}), "header is damaged"),
        (altered({"card": "{}"}), "header is damaged"),
        (altered({"sha256": None}), "header is damaged"),
        (altered({}, {"config": 5}), "config is int"),
        (altered({}, {"classes": [["n00000001"]]}), "no pair of wnid and name"),
        (lambda header: header | {"__metadata__": {NAME: "{"}}, "header is damaged"),
        (lambda header: header | {"__metadata__": {NAME: "[]"}}, "header is damaged"),
        (lambda header: header | {"__metadata__": 5}, "without our model card; `convnext-serve weights import`"),
        (lambda header: header | {"a": 5}, "truncated, or not a safetensors file"),
        (lambda header: [], "truncated, or not a safetensors file"),
    ],
)
def test_a_damaged_header_is_refused_in_one_line(checkpoint_file, tmp_path, change, message):
    data = checkpoint_file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    text = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    path = tmp_path / "damaged"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(ServeError, match=message) as caught:
        inspect_weights(path)
    assert "\n" not in str(caught.value)


def test_a_card_is_printed_in_words(checkpoint_file):
    found = inspect_weights(checkpoint_file)
    licences = [{"file": "a.pth", "licence": "mit"}, {"file": "b.pth", "licence": "mit"}]
    found |= {"classes": [["", "cat"], ["n02084071", "dog"]], "config": {"depths": [1, 2], "grn": False}}
    found |= {"provenance": {"imported": {"file": "x.pth", "words": ""}, "licences": licences, "records": None}}
    assert inspection_lines(found)[1:] == [
        "  network: depths 1 2, grn no",
        "  evaluation: crop_pct 0.875, interpolation bicubic, mean 0.485 0.456 0.406, mode crop, size_px 32, "
        "std 0.229 0.224 0.225",
        "  2 classes: cat, n02084071 (dog)",
        "  imported.file: x.pth",
        "  imported.words: none",
        "  licences.1.file: a.pth",
        "  licences.1.licence: mit",
        "  licences.2.file: b.pth",
        "  licences.2.licence: mit",
        "  records: none",
    ]


@pytest.mark.parametrize("kept", [0, 7, 300, -1])
def test_a_part_of_a_file_is_refused(checkpoint_file, tmp_path, kept):
    assert inspect_weights(checkpoint_file)["tensors"] > 50
    (tmp_path / "part").write_bytes(checkpoint_file.read_bytes()[:kept])
    with pytest.raises(ServeError, match="truncated, or not a safetensors file"):
        inspect_weights(tmp_path / "part")


def test_nested_text_is_refused(tmp_path):
    text = b"[" * 100_000
    (tmp_path / "nested").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ServeError, match="truncated, or not a safetensors file"):
        inspect_weights(tmp_path / "nested")
