"""A job named by paths is the same job anywhere, and its parts have the bytes of those made here."""

import dataclasses
from pathlib import Path

import pytest

from convnext_imagenet.base import protocol
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.predict import cluster
from convnext_imagenet.serve.predict.cluster import PartTask, maker_on, score_part
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.predict.spec import Order

from .test_job import OPTIONS, _bytes


class _Here:
    """An executor that runs units in this process, the last first."""

    def run(self, function, tasks, count, on_progress, on_unit=lambda: None) -> None:
        units = list(tasks)
        assert len(units) == count
        for task in reversed(units):
            function(task, on_progress)
            on_unit()


@pytest.fixture
def order(checkpoint_file: Path, folder: Path, tmp_path: Path) -> Order:
    cluster._lasting_maker.cache_clear()
    return Order(checkpoint_file, "best", (("size_px", None),), str(folder), "val", "", tmp_path / "out", OPTIONS)


def _run(order: Order, **how):
    loaded, inputs = order.open()
    with open_job(loaded, inputs, order.out, order.options) as job:
        return job.run(how.pop("on_progress", lambda count: None), **how)


@pytest.mark.slow
def test_parts_made_elsewhere_have_the_bytes_of_those_made_here(order: Order, tmp_path: Path):
    here = dataclasses.replace(order, out=tmp_path / "here")
    _run(here)
    done, staged = [], []

    def note_part() -> None:
        staged.append(list((order.out / ".staging").iterdir()))

    summary = _run(order, on_progress=done.append, make_parts=maker_on(_Here(), order, note_part))
    assert (summary.rows, summary.parts_made) == (11, 3)
    assert sum(done) == 11
    assert staged == [[], [], []]
    assert _bytes(order.out) == _bytes(here.out)
    assert not (order.out / ".staging").exists()


def test_a_node_that_sees_other_inputs_refuses_its_part(order: Order, folder: Path):
    loaded, inputs = order.open()
    with open_job(loaded, inputs, order.out, order.options) as job:
        (folder / "new.jpg").write_bytes(b"x")
        task = PartTask(order, 0, job.parts[0], protocol.staging(job.out) / "part")
        with pytest.raises(ServeError, match=r"node .* sees another job .*inputs.count, inputs.sha256"):
            score_part(task, lambda count: None)
    assert not list(order.out.glob("part-*"))


def test_attempts_do_not_share_a_staging_folder_and_the_title_names_the_inputs(order: Order, tmp_path: Path):
    task = PartTask(order, 2, range(8, 11), tmp_path / "part-00002")
    assert task.title == f"part-00002.parquet (inputs 8 to 10 of {order.images})"
    folders = {task.staging, task.attempt(1).staging, task.attempt(2).staging}
    assert len(folders) == 3
    assert {path.parent for path in folders} == {tmp_path}


def test_an_order_for_other_nodes_holds_no_relative_path(order: Order, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    near = dataclasses.replace(order, checkpoint=Path("w"), images="images", out=Path("out"))
    far = near.for_other_nodes(7)
    assert (far.checkpoint, far.images, far.out) == (tmp_path / "w", str(tmp_path / "images"), tmp_path / "out")
    assert far.options.workers == 7
    assert far.paths == [tmp_path / "w", tmp_path / "images"]
    stored = dataclasses.replace(near, images="s3://bucket/folder").for_other_nodes(1)
    assert (stored.images, stored.paths) == ("s3://bucket/folder", [tmp_path / "w"])
