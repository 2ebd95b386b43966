"""A job named by paths: the paths that other nodes need, and the same job opened from them."""

import dataclasses
from pathlib import Path

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.predict.spec import PredictionSpec
from convnext_imagenet.serve.settings import InputOptions, PredictOptions, TransformOptions


@pytest.fixture
def spec(checkpoint_file: Path, folder: Path, tmp_path: Path) -> PredictionSpec:
    out, options = tmp_path / "out", PredictOptions(workers=2)
    return PredictionSpec(checkpoint_file, "best", TransformOptions(), str(folder), InputOptions(), out, options)


def test_a_spec_opens_its_checkpoint_behind_its_transform_and_its_inputs(spec: PredictionSpec, folder: Path):
    checkpoint, inputs = dataclasses.replace(spec, transform=TransformOptions(size_px=48)).open()
    assert checkpoint.path == spec.checkpoint
    assert checkpoint.card.transform.size_px == 48
    assert inputs.sha256 == list_folder(folder).sha256


def test_a_spec_for_other_nodes_holds_no_relative_path(spec: PredictionSpec, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    near = dataclasses.replace(spec, checkpoint=Path("w"), images="images", out=Path("out"))
    far = near.for_other_nodes(7)
    assert (far.checkpoint, far.images, far.out) == (tmp_path / "w", str(tmp_path / "images"), tmp_path / "out")
    assert far.options.workers == 7
    assert far.paths == [tmp_path / "w", tmp_path / "images"]
    stored = dataclasses.replace(near, images="s3://bucket/folder").for_other_nodes(1)
    assert (stored.images, stored.paths) == ("s3://bucket/folder", [tmp_path / "w"])


@pytest.mark.parametrize(
    ("out", "is_inside"), [("s3://b/x/out", True), ("s3://K:S@b/x?region=e", True), ("s3://b/xy", False)]
)
def test_predictions_inside_the_inputs_of_a_store_are_refused_before_anything_is_listed(spec, out, is_inside):
    stored = dataclasses.replace(spec, images="s3://b/x/?region=e&nonsense=1", out=out)
    error, words = (ServeError, "lies inside the inputs") if is_inside else (ArtefactError, "cannot be opened")
    with pytest.raises(error, match=words):
        stored.open()
