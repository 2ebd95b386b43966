"""An export is whole, proven and explained, or it is not there."""

import contextlib
import hashlib
import io
import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from convnext_imagenet.base.files import sha256_file, write_json
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.exchange.mindir import variables_folder
from convnext_imagenet.model.exchange.onnx_file import write_onnx
from convnext_imagenet.model.exchange.onnx_graph import onnx_model
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.samples import read_sample
from convnext_imagenet.serve.scoring import probabilities
from convnext_imagenet.serve.weights import export_formats
from convnext_imagenet.serve.weights.export_formats import ExportOptions
from convnext_imagenet.serve.weights.exporting import export_weights, training_facts

from ..conftest import picture

SAFETENSORS = ExportOptions("safetensors")


@pytest.fixture
def checkpoint(checkpoint_file):
    return load_checkpoint(checkpoint_file)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("names", ["facebook", "timm"])
def test_safetensors_hold_the_values_by_the_names_asked_for(checkpoint, tmp_path, names):
    out = tmp_path / "m.safetensors"
    assert export_weights(checkpoint, out, ExportOptions("safetensors", names=names))
    assert _names(tmp_path) == ["m.safetensors", "m.safetensors.md"]
    head = {"facebook": "head.weight", "timm": "head.fc.weight"}[names]
    assert load_file(out)[head].tobytes() == checkpoint.arrays["head.weight"].tobytes()
    text = (tmp_path / "m.safetensors.md").read_text()
    assert sha256_file(out) in text
    assert checkpoint.sha256 in text
    assert checkpoint.classes_sha256 in text


def test_the_same_export_again_changes_nothing_and_another_is_refused(checkpoint, tmp_path):
    out = tmp_path / "m.safetensors"
    export_weights(checkpoint, out, SAFETENSORS)
    before = out.stat().st_mtime_ns
    assert not export_weights(checkpoint, out, SAFETENSORS)
    assert out.stat().st_mtime_ns == before
    with pytest.raises(ServeError, match=r"exists and is another export; delete it, or choose"):
        export_weights(checkpoint, out, ExportOptions("safetensors", names="timm"))
    out.write_bytes(out.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ServeError, match="is another export"):
        export_weights(checkpoint, out, SAFETENSORS)
    out.unlink()
    with pytest.raises(ServeError, match=r"m\.safetensors\.md: exists, but m\.safetensors needs this name"):
        export_weights(checkpoint, out, SAFETENSORS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.onnx", r"a file of --format safetensors must end in \.safetensors"),
        (".safetensors", r"must end in"),
        ("absent/m.safetensors", r"absent: no such folder; create it"),
        ("folder.safetensors", r"exists and is a folder"),
    ],
)
def test_a_place_that_cannot_be_is_refused(checkpoint, tmp_path, name, message):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ServeError, match=message):
        export_weights(checkpoint, tmp_path / name, SAFETENSORS)
    assert _names(tmp_path) == ["folder.safetensors"]


def test_values_that_are_not_read_back_are_never_published(checkpoint, tmp_path, monkeypatch):
    def damaged(arrays, config, names):
        return named({**arrays, "head.bias": arrays["head.bias"] + 1}, config, names)

    named = export_formats.renamed_payload
    monkeypatch.setattr(export_formats, "renamed_payload", damaged)
    with pytest.raises(ModelError, match="read back, it does not hold the checkpoint's values, so it is not published"):
        export_weights(checkpoint, tmp_path / "m.safetensors", SAFETENSORS)
    assert _names(tmp_path) == []


def test_a_graph_that_answers_otherwise_is_never_published(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")

    def wrong(card, arrays, *rest, **others):
        return onnx_model(card, {**arrays, "head.bias": arrays["head.bias"] + 1}, *rest, **others)

    monkeypatch.setattr(export_formats.onnx_graph, "onnx_model", wrong)
    with pytest.raises(ModelError, match="the ONNX graph in onnxruntime differs from the network"):
        export_weights(checkpoint, tmp_path / "m.onnx", ExportOptions("onnx"))
    assert _names(tmp_path) == []


def test_a_leftover_of_a_killed_export_is_cleared_away(checkpoint, tmp_path):
    (tmp_path / ".m.safetensors.partial").mkdir()
    (tmp_path / ".m.safetensors.partial" / "m.safetensors").write_bytes(b"half")
    export_weights(checkpoint, tmp_path / "m.safetensors", SAFETENSORS)
    assert _names(tmp_path) == ["m.safetensors", "m.safetensors.md"]


@pytest.mark.parametrize("format_name", ["safetensors", "onnx", pytest.param("mindir", marks=pytest.mark.slow)])
def test_on_a_full_disk_nothing_is_left(checkpoint, small_disk, format_name):
    if format_name == "onnx":
        pytest.importorskip("onnxruntime")
    free = 20_000  # the file takes over 100 kB
    (small_disk / "ballast").write_bytes(bytes((16 << 20) - free))
    with pytest.raises(OSError, match="No space left") as caught:
        export_weights(checkpoint, small_disk / f"m.{format_name}", ExportOptions(format_name))
    assert str(caught.value.filename).endswith(f"m.{format_name}")
    assert _names(small_disk) == ["ballast"]


def test_a_large_mindir_is_published_as_a_graph_and_a_folder(checkpoint, tmp_path, monkeypatch):
    def write(card, arrays, path):
        folder = variables_folder(path)
        folder.mkdir(mode=0o700)
        for number in range(2):
            (folder / f"data_{number}").write_bytes(bytes([number]) * 10)
        path.write_bytes(b"graph")
        return [*sorted(folder.iterdir()), path]

    monkeypatch.setattr(export_formats, "write_mindir", write)
    monkeypatch.setattr(
        export_formats, "open_mindir", lambda path: lambda pixels: export_formats._logits(checkpoint, pixels)
    )
    out, options = tmp_path / "m.mindir", ExportOptions("mindir")
    assert export_weights(checkpoint, out, options)
    assert _names(tmp_path) == ["m.mindir", "m.mindir.md", "m_variables"]
    assert _names(tmp_path / "m_variables") == ["data_0", "data_1"]
    assert (tmp_path / "m_variables").stat().st_mode & 0o500 == 0o500
    card = (tmp_path / "m.mindir.md").read_text()
    for name in ("m_variables/data_0", "m_variables/data_1", "m.mindir"):
        assert f"`{name}`" in card
        assert sha256_file(tmp_path / name) in card
    assert not export_weights(checkpoint, out, options)
    (tmp_path / "m_variables" / "data_1").write_bytes(b"")
    with pytest.raises(ServeError, match="is another export"):
        export_weights(checkpoint, out, options)
    out.unlink()
    (tmp_path / "m.mindir.md").unlink()
    with pytest.raises(ServeError, match=r"m_variables: exists, but m\.mindir needs this name"):
        export_weights(checkpoint, out, options)


def test_the_folder_of_another_format_is_no_obstacle(checkpoint, tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "m_variables").mkdir()
    (tmp_path / "m_variables" / "data_0").write_bytes(b"of m.mindir")
    out = tmp_path / "m.onnx"
    assert [export_weights(checkpoint, out, ExportOptions("onnx")) for _ in range(2)] == [True, False]
    assert "m_variables" not in (tmp_path / "m.onnx.md").read_text()


@pytest.mark.parametrize("preprocessing", [True, False])
def test_onnx_files_say_what_they_are_and_a_second_file_belongs_to_them(
    checkpoint, tmp_path, monkeypatch, preprocessing
):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export_formats, "write_onnx", lambda model, path: write_onnx(model, path, largest_bytes=1000))
    out, options = tmp_path / "m.onnx", ExportOptions("onnx", preprocessing)
    assert export_weights(checkpoint, out, options)
    assert _names(tmp_path) == ["m.onnx", "m.onnx.data", "m.onnx.md"]
    props = {entry.key: entry.value for entry in onnx.load(out, load_external_data=False).metadata_props}
    assert props["variant"] == "convnext_test"
    assert json.loads(props["classes"]) == [list(entry) for entry in checkpoint.card.classes]
    assert json.loads(props["transform"])["size_px"] == 32
    assert props["checkpoint_sha256"] == checkpoint.sha256
    assert not export_weights(checkpoint, out, options)
    (tmp_path / "m.onnx.data").write_bytes(b"")
    with pytest.raises(ServeError, match="is another export"):
        export_weights(checkpoint, out, options)


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions("onnx", True),
        ExportOptions("onnx", False),
        pytest.param(ExportOptions("mindir"), marks=pytest.mark.slow),
    ],
    ids=["onnx-pixels", "onnx-values", "mindir"],
)
def test_the_cards_own_python_names_a_picture_as_the_checkpoint_does(checkpoint, tmp_path, monkeypatch, options):
    if options.format == "onnx":
        pytest.importorskip("onnxruntime")
    export_weights(checkpoint, tmp_path / f"m.{options.format}", options)
    (example,) = re.findall(r"```python\n(.*?)```", (tmp_path / f"m.{options.format}.md").read_text(), re.DOTALL)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "picture.jpg").write_bytes(picture(5, width=57, form="PNG"))  # PNG: decoders agree
    monkeypatch.chdir(tmp_path / "in")
    said = io.StringIO()
    code = example.replace(f'"m.{options.format}"', repr(str(tmp_path / f"m.{options.format}")))
    with contextlib.redirect_stdout(said):
        exec(compile(code, "card", "exec"), {})
    inputs = list_folder(tmp_path / "in")
    sample = read_sample(next(iter(inputs.items(range(1)))), 0, checkpoint.card.transform)
    logits_NK = export_formats._logits(checkpoint, sample.pixels[None])
    expected = probabilities(logits_NK)[0]
    found = [(int(line.split()[0]), float(line.split()[-1])) for line in said.getvalue().splitlines()]
    assert [index for index, _ in found] == np.argsort(-expected)[:5].tolist()
    assert [score for _, score in found] == pytest.approx(sorted(expected, reverse=True)[:5], abs=6e-5)


def test_what_a_run_knows_of_its_checkpoint_is_told(checkpoint, tmp_path):
    assert training_facts(checkpoint) == {}
    folder = checkpoint.path.parent
    unit = checkpoint.path.name.split(".")[0]
    receipt = {"files": [{"name": checkpoint.path.name, "sha256": checkpoint.sha256}]}
    receipt["facts"] = {"epoch": 4, "step": 40, "top1": 0.25, "ema_top1": 0.5}
    try:
        write_json(folder / f"{unit}.json", receipt)
        assert training_facts(checkpoint) == {"epoch": 4, "step": 40, "top-1 on val": 0.25}
        receipt["files"][0]["sha256"] = hashlib.sha256().hexdigest()
        write_json(folder / f"{unit}.json", receipt)
        assert training_facts(checkpoint) == {}
    finally:
        (folder / f"{unit}.json").unlink()
