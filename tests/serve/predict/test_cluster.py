"""A job named by paths is the same job anywhere, and its parts have the bytes of those made here."""

import dataclasses
from pathlib import Path

import pytest

from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.predict import cluster
from convnext_imagenet.serve.predict.cluster import ClusterRunner, PartTask, score_part
from convnext_imagenet.serve.predict.job import LocalRunner, open_job
from convnext_imagenet.serve.predict.spec import PredictionSpec
from convnext_imagenet.serve.settings import InputOptions, TransformOptions

from .test_job import OPTIONS, _bytes


class _InOneProcess:
    """An executor that runs units in this process, the last first."""

    def run(self, function, tasks, count, on_progress, on_unit=lambda: None) -> None:
        units = list(tasks)
        assert len(units) == count
        for task in reversed(units):
            function(task, on_progress)
            on_unit()


@pytest.fixture
def spec(checkpoint_file: Path, folder: Path, tmp_path: Path) -> PredictionSpec:
    cluster._cached_writer.cache_clear()
    return PredictionSpec(
        checkpoint_file, "best", TransformOptions(), str(folder), InputOptions(), tmp_path / "out", OPTIONS
    )


def _run(spec: PredictionSpec, on_progress=lambda count: None, runner=LocalRunner()):  # noqa: B008
    loaded, inputs = spec.open()
    with open_job(loaded, inputs, spec.out, spec.options) as job:
        return job.run(on_progress, runner)


@pytest.mark.slow
def test_parts_made_elsewhere_have_the_bytes_of_those_made_here(spec: PredictionSpec, tmp_path: Path):
    here = dataclasses.replace(spec, out=tmp_path / "here")
    _run(here)
    done, staged = [], []

    def note_part() -> None:
        staged.append(list((spec.out / ".staging").iterdir()))

    summary = _run(spec, done.append, ClusterRunner(_InOneProcess(), spec, note_part))
    assert (summary.rows, summary.parts_made) == (11, 3)
    assert sum(done) == 11
    assert staged == [[], [], []]
    assert _bytes(spec.out) == _bytes(here.out)
    assert not (spec.out / ".staging").exists()


def test_a_node_that_sees_other_inputs_refuses_its_part(spec: PredictionSpec, folder: Path):
    loaded, inputs = spec.open()
    with open_job(loaded, inputs, spec.out, spec.options) as job:
        (folder / "new.jpg").write_bytes(b"x")
        task = PartTask(spec, 0, job.writer.parts[0], job.out.staging("") / "part")
        with pytest.raises(ServeError, match=r"node .* opens another job .*inputs.count, inputs.sha256"):
            score_part(task, lambda count: None)
    assert not list(spec.out.glob("part-*"))


def test_attempts_do_not_share_a_staging_folder_and_the_title_names_the_inputs(spec: PredictionSpec, tmp_path: Path):
    task = PartTask(spec, 2, range(8, 11), tmp_path / "part-00002")
    assert task.title == f"part-00002.parquet (inputs 8 to 10 of {spec.images})"
    folders = {task.staging, task.attempt(1).staging, task.attempt(2).staging}
    assert len(folders) == 3
    assert {path.parent for path in folders} == {tmp_path}
