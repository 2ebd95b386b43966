"""`convnext-serve weights export` from the outside: what it says, how it ends, what it leaves."""

import json

import pytest
from click.testing import CliRunner

from convnext_imagenet.model.exchange.naming import SCHEMES
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.cli_weights import import_command


def _call(*words):
    return CliRunner().invoke(main, ["weights", "export", *map(str, words)])


def test_an_export_and_the_same_again(checkpoint_file, tmp_path):
    words = (checkpoint_file, "--out", tmp_path / "m.safetensors", "--format", "safetensors", "--names", "timm")
    for said in ("written and checked", "there already, unchanged"):
        result = _call(*words)
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{tmp_path / 'm.safetensors'}: 0.1 MiB, {said}\n"
        assert f"Next: read {tmp_path / 'm.safetensors'}.md" in result.stderr


def test_every_family_of_names_can_be_stated():
    (stated,) = [option.type.choices for option in import_command.params if "--from" in option.opts]
    assert list(stated) == ["auto", *dict.fromkeys(scheme.name for scheme in SCHEMES)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--format", "mindir", "--preprocessing"),
            "--preprocessing works only with --format onnx (mindir always takes",
        ),
        (("--format", "onnx", "--names", "timm"), "--names works only with --format safetensors"),
        (("--format", "onnx", "--max-changed", "3"), "--max-changed works only with --records; pass that, too"),
        (("--format", "onnx", "--workers", "1"), "--workers works only with --records"),
        (
            ("--format", "onnx", "--precision", "fp16", "--records", "r", "--calibration-rows", "9"),
            "--calibration-rows works only with --precision int8",
        ),
        (("--format", "tflite"), "'tflite' is not one of 'onnx', 'mindir', 'safetensors'"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(checkpoint_file, tmp_path, words, message):
    result = _call(checkpoint_file, "--out", tmp_path / "m", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_an_average_without_records_takes_no_split(checkpoint_file, tmp_path):
    words = ["weights", "average", str(checkpoint_file), "--out", str(tmp_path / "s"), "--split", "train"]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, "--split works only with --records" in result.stderr) == (2, True), result.output


def test_a_size_is_that_of_all_files(checkpoint_file, tmp_path, monkeypatch):
    onnx_file = pytest.importorskip("convnext_imagenet.model.exchange.onnx_file")
    pytest.importorskip("onnxruntime")
    from convnext_imagenet.serve.weights import export_formats

    write = onnx_file.write_onnx
    monkeypatch.setattr(export_formats, "write_onnx", lambda model, path: write(model, path, largest_bytes=1000))
    out = tmp_path / "m.onnx"
    result = _call(checkpoint_file, "--out", out, "--format", "onnx", "--json")
    assert result.exit_code == 0, result.output
    size = out.stat().st_size + (tmp_path / "m.onnx.data").stat().st_size
    assert json.loads(result.stdout)["bytes"] == size
    assert f"{out}: {size / 2**20:.1f} MiB in 2 files, written and checked" in result.stderr


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x02}q\x00.")
    result = _call(tmp_path / "x.safetensors", "--out", tmp_path / "m.onnx", "--format", "onnx")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {tmp_path / 'x.safetensors'}: truncated, damaged or not a safetensors file")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_folder_that_cannot_be_written_is_named(checkpoint_file, tmp_path):
    result = _call(checkpoint_file, "--out", tmp_path / "absent" / "m.onnx", "--format", "onnx")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"Error: {tmp_path / 'absent'}: no such folder")
