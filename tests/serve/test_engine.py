"""Either engine gives the network's numbers, and PREDICTIONS say which one made them."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.model.variants import VARIANTS
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.engine import engine_facts, open_engine
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.predict.schema import METADATA_KEY
from convnext_imagenet.serve.settings import PredictOptions

from .conftest import SIZE_PX

OPTIONS = PredictOptions(topk=3, part_rows=4, batch_size=3, workers=2, extras=("features", "logits"))
ONNXRUNTIME = dataclasses.replace(OPTIONS, engine="onnxruntime")
USUAL = VARIANTS["convnext_atto"]


def _predict(checkpoint, folder, out, options):
    with open_job(checkpoint, list_folder(folder), out, options) as job:
        job.run(lambda count: None)
    return pq.read_table(out).to_pylist()


def test_both_engines_give_the_same_logits_and_features(checkpoint_file):
    pytest.importorskip("onnxruntime")
    checkpoint = load_checkpoint(checkpoint_file)
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIZE_PX, SIZE_PX, 3), np.uint8)
    ours, theirs = (open_engine(name, checkpoint, with_features=True)(pixels) for name in ("mindspore", "onnxruntime"))
    assert [array.shape for array in theirs] == [(5, 7), (5, 32)]
    for one, other in zip(ours, theirs, strict=True):
        assert other.dtype == np.float32
        assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()
    assert len(open_engine("onnxruntime", checkpoint)(pixels)) == 1


def test_predictions_differ_by_rounding_alone_and_name_their_engine(checkpoint_file, folder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    checkpoint = load_checkpoint(checkpoint_file)
    ours = _predict(checkpoint, folder, tmp_path / "ours", OPTIONS)
    theirs = _predict(checkpoint, folder, tmp_path / "theirs", ONNXRUNTIME)
    for one, other in zip(ours, theirs, strict=True):
        assert [one[name] for name in ("source", "sha256", "status", "top1_index")] == [
            other[name] for name in ("source", "sha256", "status", "top1_index")
        ]
        if one["status"] == "ok":
            np.testing.assert_allclose(other["logits"], one["logits"], atol=1e-5 * np.abs(one["logits"]).max())
            np.testing.assert_allclose(other["features"], one["features"], atol=1e-5 * np.abs(one["features"]).max())
    metadata = pq.ParquetFile(tmp_path / "theirs" / "part-00000.parquet").schema_arrow.metadata
    assert json.loads(metadata[METADATA_KEY.encode()])["engine"] == {
        "name": "onnxruntime",
        "version": onnxruntime.__version__,
    }


def test_a_directory_belongs_to_one_engine(fake, folder, tmp_path):
    pytest.importorskip("onnxruntime")
    _predict(fake, folder, tmp_path / "out", dataclasses.replace(OPTIONS, extras=()))
    with (
        pytest.raises(ArtefactError, match=r"differs in: engine\.name, engine\.version"),
        open_job(fake, list_folder(folder), tmp_path / "out", dataclasses.replace(ONNXRUNTIME, extras=())),
    ):
        pass


def test_the_version_of_mindspore_is_that_of_its_engine():
    import mindspore

    assert engine_facts("mindspore", USUAL, "Ascend") == {"name": "mindspore", "version": mindspore.__version__}


def test_onnxruntime_is_refused_for_a_device_that_it_does_not_run_on():
    pytest.importorskip("onnxruntime")
    with pytest.raises(ServeError, match=r"runs only on the CPU, not on Ascend; pass --device-target CPU"):
        engine_facts("onnxruntime", USUAL, "Ascend")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_one_line_names_it_and_nothing_is_begun(
    checkpoint_file, folder, tmp_path, monkeypatch, package
):
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    if package == "onnxruntime":
        pytest.importorskip("onnx")
    with pytest.raises(ModelError, match=f"^{package} cannot be imported"):
        engine_facts("onnxruntime", USUAL, "CPU")
    out = tmp_path / "out"
    result = CliRunner().invoke(
        main, ["predict", str(checkpoint_file), str(folder), "--out", str(out), "--engine", "onnxruntime"]
    )
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert line.endswith(f"run `{sys.executable} -m pip install 'convnext_imagenet[onnx]'`")
    assert not (out / "_plan.json").exists()


def test_bfloat16_changes_scores_by_rounding_and_is_part_of_the_plan(checkpoint_file, folder, tmp_path):
    if "precision" not in engine_facts("mindspore", USUAL, "CPU", "auto"):
        pytest.skip("this processor has no bfloat16 products")
    low = dataclasses.replace(OPTIONS, precision="bfloat16")
    checkpoint = load_checkpoint(checkpoint_file)
    ours, lower = (_predict(checkpoint, folder, tmp_path / o.precision, o) for o in (OPTIONS, low))
    pairs = [(one["logits"], other["logits"]) for one, other in zip(ours, lower, strict=True) if one["status"] == "ok"]
    errors = [np.abs(np.subtract(*pair)).max() / np.abs(pair[0]).max() for pair in pairs]
    assert 1e-5 < max(errors) < 2e-2
    with (
        pytest.raises(ArtefactError, match=r"differs in: engine\.precision"),
        open_job(checkpoint, list_folder(folder), tmp_path / "bfloat16", OPTIONS),
    ):
        pass
    auto = dataclasses.replace(OPTIONS, precision="auto")  # what it means here is the plan, not the word
    with open_job(checkpoint, list_folder(folder), tmp_path / "bfloat16", auto) as job:
        assert job.pending == []


def test_bfloat16_rows_depend_on_no_batch(checkpoint_file, folder, tmp_path):
    if "precision" not in engine_facts("mindspore", USUAL, "CPU", "auto"):
        pytest.skip("this processor has no bfloat16 products")
    checkpoint = load_checkpoint(checkpoint_file)
    options = [
        dataclasses.replace(OPTIONS, precision="bfloat16", batch_size=size, extras=("logits",)) for size in (1, 4)
    ]
    rows = [_predict(checkpoint, folder, tmp_path / str(o.batch_size), o) for o in options]
    assert rows[0] == rows[1]


def test_bfloat16_is_refused_where_it_is_not_computed(checkpoint_file, folder, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="our CPU kernels do not run here"):
        engine_facts("mindspore", USUAL, "Ascend", "bfloat16")
    with pytest.raises(ServeError, match="onnxruntime computes in float32; pass --precision float32"):
        engine_facts("onnxruntime", USUAL, "CPU", "bfloat16")
    monkeypatch.setattr("convnext_imagenet.model.kernels.products.is_supported", lambda library, unit: False)
    out = tmp_path / "out"
    args = ["predict", str(checkpoint_file), str(folder), "--out", str(out), "--precision", "bfloat16"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert "pass --precision float32" in line
    assert not (out / "_plan.json").exists()


def test_the_plan_says_what_auto_computes(monkeypatch):
    monkeypatch.setattr("convnext_imagenet.model.kernels.products.is_supported", lambda library, unit: True)
    monkeypatch.setattr("convnext_imagenet.serve.engine.cpu_kernels", lambda: Path("kernels.so"))
    assert engine_facts("mindspore", USUAL, "CPU", "auto")["precision"] == "bfloat16"
    for change in ({"activation": "gelu_tanh"}, {"num_classes": 0}, {"head_projection": (8,)}):
        other = dataclasses.replace(USUAL, **change)
        assert "precision" not in engine_facts("mindspore", other, "CPU", "auto")
        with pytest.raises(ModelError, match="pass --precision float32 or auto"):
            engine_facts("mindspore", other, "CPU", "bfloat16")
