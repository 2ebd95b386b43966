"""From plan to finished records: what is there is kept, what is missing is made, what is foreign is refused."""

from pathlib import Path

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.protocol import staging
from convnext_imagenet.ingest.errors import IngestError, QuarantineError
from convnext_imagenet.ingest.make_plan import make_plan
from convnext_imagenet.ingest.shards.build import open_build
from convnext_imagenet.ingest.shards.plan import IngestPlan
from convnext_imagenet.ingest.shards.pool import LocalPool
from convnext_imagenet.ingest.source.layout import scan_tree
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records


def _plan(data: Path, **options) -> IngestPlan:
    return make_plan(scan_tree(data), **{"classes": "found", "unverified": False, "devkit": None, "seed": 0} | options)


def _build(plan: IngestPlan, data: Path, out: Path, allowed: int = 0):
    with open_build(plan, data, out) as job:
        job.write(job.unfinished(), LocalPool(1), lambda count: None)
        return job.finish(allowed)


def test_records_hold_every_label_of_the_tree(raw_tree: Path, tmp_path: Path, write_here):
    outcome = _build(_plan(raw_tree), raw_tree, tmp_path / "out")
    assert outcome.rows == {"train": 18, "val": 7}
    records = Records.open(tmp_path / "out")
    assert verify_records(tmp_path / "out").problems == ()
    for fields in records.split("train").read(range(18), ["key", "label", "image", "sample_id"]):
        wnid = records.classes[fields["label"]].wnid
        assert fields["image"] == (raw_tree / "train" / wnid / f"{fields['key']}.JPEG").read_bytes()
    labels = {f["key"]: f["label"] for f in records.split("val").read(range(7), ["key", "label"])}
    assert labels == {
        f"ILSVRC2012_val_{n:08d}": label for n, label in zip((1, 2, 3, 4, 6, 7, 8), (0, 2, 1, 1, 0, 2, 0), strict=True)
    }


def test_manifest_tells_where_the_labels_come_from(raw_tree: Path, tmp_path: Path, write_here):
    _build(_plan(raw_tree), raw_tree, tmp_path / "out")
    manifest = Records.open(tmp_path / "out").manifest
    assert manifest.splits["train"].rows_per_class == (7, 5, 6)
    assert manifest.splits["val"].rows_per_class == (3, 2, 2)
    assert {key: manifest.source[key] for key in ("verified", "classes", "layout", "left_out")} == {
        "verified": True,
        "classes": "found",
        "layout": {"train": "class folders", "val": "flat"},
        "left_out": {"train": 0, "val": 1},
    }
    assert "rank of the wnid" in manifest.source["class_index"]


def test_unverified_tree_is_recorded_as_such(raw_tree: Path, tmp_path: Path, write_here):
    for split in ("train", "val"):
        for folder in ("cats", "big dogs"):
            (tmp_path / "plain" / split / folder).mkdir(parents=True)
            image = (raw_tree / "val" / "ILSVRC2012_val_00000001.JPEG").read_bytes()
            (tmp_path / "plain" / split / folder / "some picture.jpg").write_bytes(image)
    plan = _plan(tmp_path / "plain", unverified=True)
    _build(plan, tmp_path / "plain", tmp_path / "out")
    records = Records.open(tmp_path / "out")
    assert records.manifest.source["verified"] is False
    assert [entry.wnid for entry in records.classes] == ["big dogs", "cats"]
    assert {f["key"] for f in records.split("train").read(range(2), ["key"])} == {
        "big dogs/some picture.jpg",
        "cats/some picture.jpg",
    }
    assert verify_records(tmp_path / "out").problems == ()


def test_missing_shard_alone_is_made_again(raw_tree: Path, tmp_path: Path, write_here):
    plan = _plan(raw_tree)
    _build(plan, raw_tree, tmp_path / "out")
    shard = tmp_path / "out" / "val" / "imagenet-val-00000-of-00001.mindrecord"
    before = shard.read_bytes()
    shard.unlink()
    write_here.clear()
    _build(plan, raw_tree, tmp_path / "out")
    assert write_here == [shard.name]
    assert shard.read_bytes() == before


def test_bad_images_above_the_limit_leave_the_records_unfinished_but_written(
    raw_tree: Path, tmp_path: Path, write_here
):
    (raw_tree / "train" / "n00000010" / "n00000010_3.JPEG").write_bytes(b"<html>")
    plan, out = _plan(raw_tree), tmp_path / "out"
    with pytest.raises(QuarantineError, match=r"n00000010_3\.JPEG \(unsupported\), .*--max-quarantine 1"):
        _build(plan, raw_tree, out)
    assert (out / "quarantine.parquet").is_file()
    with pytest.raises(ArtefactError, match="unfinished"):
        Records.open(out)
    write_here.clear()
    outcome = _build(plan, raw_tree, out, allowed=1)
    assert write_here == []
    assert [entry.key for entry in outcome.quarantined] == ["n00000010_3"]
    assert Records.open(out).manifest.splits["train"].quarantined == 1


def test_split_without_a_single_good_image_is_refused(raw_tree: Path, tmp_path: Path, write_here):
    for path in (raw_tree / "val").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(IngestError, match="val/: no image can be stored, 7 are in quarantine, such as"):
        _build(_plan(raw_tree), raw_tree, tmp_path / "out", allowed=100)


@pytest.mark.parametrize(
    ("options", "keys"),
    [({"seed": 1}, "seed"), ({"classes": "FILE"}, r"classes, .*source.classes")],
)
def test_records_of_another_plan_are_refused(raw_tree: Path, tmp_path: Path, write_here, options, keys: str):
    (tmp_path / "list.txt").write_text("n00000010\n")
    if "classes" in options:
        options = {"classes": str(tmp_path / "list.txt")}
    _build(_plan(raw_tree), raw_tree, tmp_path / "out")
    with pytest.raises(ArtefactError, match=rf"belongs to another run \(differs in: {keys}"):
        _build(_plan(raw_tree, **options), raw_tree, tmp_path / "out")


@pytest.mark.parametrize("place", [".", "train", "train/n00000010", "val/records"])
def test_records_inside_the_tree_are_refused(raw_tree: Path, place: str):
    with (
        pytest.raises(IngestError, match="is inside the raw tree"),
        open_build(_plan(raw_tree), raw_tree, raw_tree / place),
    ):
        pass
    assert not list(raw_tree.rglob("*.lock"))


def test_leftovers_of_a_killed_ingest_are_removed(raw_tree: Path, tmp_path: Path, write_here):
    plan, out = _plan(raw_tree), tmp_path / "out"
    with open_build(plan, raw_tree, out) as job:
        (staging(job.out) / "half").write_bytes(b"x")
    assert not (out / ".staging").exists()
    (out / ".staging").mkdir()
    (out / "train").mkdir()
    (out / "train" / ".imagenet-train-00000-of-00001.json.4711.tmp").write_bytes(b"x")
    _build(plan, raw_tree, out)
    hidden = sorted(path.name for path in out.rglob(".*"))
    assert hidden == [".lock", ".stamps.json"]


def test_what_a_process_killed_during_the_job_was_writing_is_removed(raw_tree: Path, tmp_path: Path, write_here):
    out = tmp_path / "out"
    with open_build(_plan(raw_tree), raw_tree, out) as job:
        job.write(job.unfinished(), LocalPool(1), lambda count: None)
        (out / "train" / ".imagenet-train-00000-of-00001.json.4711.tmp").write_bytes(b"x")
        job.finish(0)
    assert sorted(path.name for path in out.rglob(".*")) == [".lock", ".stamps.json"]


def test_tree_without_devkit_names_the_flag(raw_tree: Path):
    (raw_tree / "ILSVRC2012_devkit_t12.tar.gz").rename(raw_tree.parent / "kit.tar.gz")
    with pytest.raises(IngestError, match=r"no devkit .*--devkit PATH; .*--unverified"):
        _plan(raw_tree)
    assert _plan(raw_tree, devkit=raw_tree.parent / "kit.tar.gz").source["verified"]
