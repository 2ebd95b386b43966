"""A network without a trained classifier: features in every program, and no class that nobody trained."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.model.convnext import init_parameters
from convnext_imagenet.model.weights import load_weights, save_weights
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.engine import open_engine

from .conftest import SIZE_PX, build_records, picture, write_checkpoint


@pytest.fixture
def headed(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "headed.safetensors")


@pytest.fixture(params=["no head", "untrained head"])
def bare(request, headed, tmp_path) -> Path:
    """The same network without its head, and with one that nobody trained."""
    arrays, card = load_weights(headed)
    path = tmp_path / "bare.safetensors"
    if request.param == "no head":
        card = dataclasses.replace(card, config=dataclasses.replace(card.config, num_classes=0), classes=())
        arrays = {name: arrays[name] for name in init_parameters(card.config, 0)}
    else:
        card = dataclasses.replace(card, provenance={"imported": {"head": "new"}})
    save_weights(path, arrays, card)
    return path


def run(*args) -> tuple[int, str]:
    result = CliRunner().invoke(main, [*map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout + result.stderr


def test_both_engines_give_the_features_of_the_network_with_its_head(headed, bare):
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIZE_PX, SIZE_PX, 3), np.uint8)
    _, expected = open_engine("mindspore", load_checkpoint(headed), with_features=True)(pixels)
    for engine in ("mindspore", "onnxruntime"):
        (found,) = open_engine(engine, load_checkpoint(bare), with_features=True)(pixels)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_predict_writes_features_and_no_column_about_classes(bare, tmp_path):
    records = build_records(tmp_path / "records", [picture(n) for n in range(3)], [4, 0, 2])
    assert run("predict", bare, records, "--out", tmp_path / "p")[0] == 1
    out = tmp_path / "features"
    assert run("predict", bare, records, "--out", out, "--features", "--normalize", "--workers", 1)[0] == 0
    table = pq.read_table(next(out.glob("part-*.parquet")))
    assert not [name for name in table.column_names if name.startswith("top") or name == "correct"]
    assert table["label"].to_pylist() == [4, 0, 2]
    features = np.array(table["features"].to_pylist())
    unit = np.array(table["unit_features"].to_pylist())
    np.testing.assert_allclose(unit, features / np.linalg.norm(features, axis=1, keepdims=True), rtol=1e-6)
    assert run("verify", out)[0] == 0


@pytest.mark.parametrize("command", [["eval", "--records"], ["infer"]])
def test_what_needs_classes_says_what_to_do(bare, tmp_path, command):
    (tmp_path / "a.jpg").write_bytes(picture(1))
    target = build_records(tmp_path / "records", [picture(1)], [0]) if command[0] == "eval" else tmp_path / "a.jpg"
    code, said = run(command[0], bare, *command[1:], target)
    assert code == 1
    assert "has no trained classifier, so it names no classes; train one by `convnext-train probe`" in said


@pytest.mark.parametrize("format_name", ["onnx", "mindir", "safetensors"])
def test_an_export_is_a_network_of_features(bare, tmp_path, format_name):
    out = tmp_path / f"w.{format_name}"
    code, said = run("weights", "export", bare, "--out", out, "--format", format_name)
    assert code == 0, said
    text = out.with_name(f"{out.name}.md").read_text()
    assert "the mean over all positions, after the last LayerNorm" in text
    assert "## Classes" not in text
