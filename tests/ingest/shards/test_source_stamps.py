"""What changed in the source between two runs is noticed: by size the plan is another one, by time a shard is."""

import os
from pathlib import Path

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.ingest.make_plan import make_plan
from convnext_imagenet.ingest.shards.build import open_build
from convnext_imagenet.ingest.shards.plan import IngestPlan
from convnext_imagenet.ingest.shards.pool import LocalPool
from convnext_imagenet.ingest.source.layout import scan_tree
from convnext_imagenet.records.reader import Records

pytestmark = pytest.mark.usefixtures("write_here")
VAL_SHARD = "imagenet-val-00000-of-00001.mindrecord"
IMAGE = "val/ILSVRC2012_val_00000001.JPEG"
NOTE = ".stamps.json"


def _plan(data: Path) -> IngestPlan:
    return make_plan(scan_tree(data), classes="found", unverified=False, devkit=None, seed=0)


def _interrupted(data: Path, out: Path) -> None:
    """An ingest that wrote every shard and was stopped before it was marked as finished."""
    with open_build(_plan(data), data, out) as job:
        job.write(job.unfinished(), LocalPool(1), lambda count: None)


def _replace(path: Path, data: bytes, later_ns: int) -> None:
    time = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(time + later_ns, time + later_ns))


def test_image_of_the_same_size_that_changed_makes_its_shard_new(raw_tree: Path, tmp_path: Path):
    _interrupted(raw_tree, tmp_path / "out")
    image = raw_tree / IMAGE
    old = image.read_bytes()
    # A quantisation value of the tables: another image of the same size.
    new = old[:30] + bytes([old[30] + 1]) + old[31:]
    _replace(image, new, later_ns=1)
    with open_build(_plan(raw_tree), raw_tree, tmp_path / "out") as job:
        assert job.outdated == [VAL_SHARD]
        assert [unit.shard for unit in job.unfinished()] == [VAL_SHARD]
        job.write(job.unfinished(), LocalPool(1), lambda count: None)
        job.finish(0)
    (row,) = Records.open(tmp_path / "out").split("val").read([0], ["key", "image"])
    assert (row["key"], row["image"]) == ("ILSVRC2012_val_00000001", new)


def test_image_of_another_size_makes_another_plan(raw_tree: Path, tmp_path: Path):
    _interrupted(raw_tree, tmp_path / "out")
    _replace(raw_tree / IMAGE, (raw_tree / IMAGE).read_bytes() + b"\0", later_ns=0)
    with (
        pytest.raises(ArtefactError, match=r"differs in: source\.bytes\.val, source\.fingerprint\.val"),
        open_build(_plan(raw_tree), raw_tree, tmp_path / "out"),
    ):
        pass


def test_archive_that_was_fetched_again_makes_every_shard_of_its_split_new(tar_tree: Path, tmp_path: Path):
    _interrupted(tar_tree, tmp_path / "out")
    path = tar_tree / "ILSVRC2012_img_val.tar"
    _replace(path, path.read_bytes(), later_ns=5)
    with open_build(_plan(tar_tree), tar_tree, tmp_path / "out") as job:
        assert job.outdated == [VAL_SHARD]


def test_untouched_source_keeps_every_shard(raw_tree: Path, tmp_path: Path):
    _interrupted(raw_tree, tmp_path / "out")
    with open_build(_plan(raw_tree), raw_tree, tmp_path / "out") as job:
        assert (list(job.outdated), job.unfinished()) == ([], [])


def test_change_is_noticed_even_when_the_next_run_is_killed_too(raw_tree: Path, tmp_path: Path, monkeypatch):
    _interrupted(raw_tree, tmp_path / "out")
    _replace(raw_tree / IMAGE, (raw_tree / IMAGE).read_bytes(), later_ns=1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("convnext_imagenet.ingest.shards.source_stamps.write_json", die)
        with pytest.raises(KeyboardInterrupt), open_build(_plan(raw_tree), raw_tree, tmp_path / "out"):
            pass
    with open_build(_plan(raw_tree), raw_tree, tmp_path / "out") as job:
        assert [unit.shard for unit in job.unfinished()] == [VAL_SHARD]


def test_finished_records_keep_the_note_and_are_left_alone(raw_tree: Path, tmp_path: Path):
    out = tmp_path / "out"
    _interrupted(raw_tree, out)
    with open_build(_plan(raw_tree), raw_tree, out) as job:
        job.finish(0)
    os.utime(raw_tree / IMAGE, ns=(0, 0))
    note = (out / NOTE).read_bytes()
    for _ in range(2):
        with open_build(_plan(raw_tree), raw_tree, out) as job:
            assert (list(job.outdated), job.unfinished(), job.is_finished) == ([VAL_SHARD], [], True)
    assert (out / NOTE).read_bytes() == note
    with open_build(_plan(raw_tree), raw_tree, out, repair=True) as job:
        assert ([unit.shard for unit in job.unfinished()], job.is_finished) == ([VAL_SHARD], False)


def test_records_that_were_copied_without_the_note_count_as_unchanged(raw_tree: Path, tmp_path: Path):
    _interrupted(raw_tree, tmp_path / "out")
    with open_build(_plan(raw_tree), raw_tree, tmp_path / "out") as job:
        job.finish(0)
    (tmp_path / "out" / NOTE).unlink()
    with open_build(_plan(raw_tree), raw_tree, tmp_path / "out") as job:
        assert (list(job.outdated), job.unfinished()) == ([], [])
    assert not (tmp_path / "out" / NOTE).exists()
