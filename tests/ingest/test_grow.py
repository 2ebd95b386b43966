"""`build --onto`: old shards stay as they are, new images get shards behind them, what contradicts is refused."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.ingest.cli import main as ingest
from convnext_imagenet.records import open_records
from convnext_imagenet.records.cli import main as records
from convnext_imagenet.records.reader import Records

pytestmark = pytest.mark.usefixtures("write_here")
NEW = ("n00000010_9", "n00000020_77", "n00000020_78")


def build(data: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(ingest, ["build", str(data), "--out", str(out), "--workers", "1", *options])


def lines_of(result: Result) -> str:
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def source(_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw tree less one image of class 20, with a larger devkit, so that images can be added."""
    root = Path(shutil.copytree(_template, tmp_path_factory.mktemp("source") / "raw"))
    for name in ("n00000010/n00000010_0", "n00000020/n00000020_0", "n00000020/n00000020_1"):
        (root / "train" / f"{name}.JPEG").unlink()
    return root


@pytest.fixture(scope="module")
def parent(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parent") / "records"
    done = build(source, out, "--classes", "found")
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def increment(source: Path, tmp_path: Path, pieces) -> Path:
    """Three train images and the devkit; no val."""
    root = tmp_path / "increment"
    root.mkdir()
    shutil.copy(source / "ILSVRC2012_devkit_t12.tar.gz", root)
    for number, key in enumerate(NEW):
        folder = root / "train" / key.partition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{key}.JPEG").write_bytes(pieces.jpeg(900 + number))
    return root


def rows_of(root: Path, split: str = "train") -> list[tuple]:
    source = open_records(root, split)
    return [(row.sample_id, row.key, row.label, row.image) for row in map(source.fields, range(len(source)))]


def test_old_rows_stay_and_new_ones_follow(parent, increment, tmp_path):
    out = tmp_path / "grown"
    done = build(increment, out, "--onto", str(parent))
    assert done.exit_code == 0, done.output
    assert "new: 3 train, 0 val images" in done.output
    assert "1 class without a new image" in done.output
    old, new = rows_of(parent), rows_of(out)
    assert new[: len(old)] == old
    images = len(old)
    assert sorted(row[0] for row in new[images:]) == [images, images + 1, images + 2]
    by_id = sorted(new[images:])
    assert [row[1] for row in by_id] == sorted(NEW)
    assert [row[3] for row in by_id] == [
        (increment / "train" / key.partition("_")[0] / f"{key}.JPEG").read_bytes() for key in sorted(NEW)
    ]
    assert rows_of(out, "val") == rows_of(parent, "val")
    old_shard, new_shard = sorted((out / "train").glob("*.mindrecord"))
    assert old_shard.samefile(parent / "train" / old_shard.name)
    assert new_shard.name == "imagenet-train-00001-of-00002.mindrecord"
    read = [row["key"] for row in Records.open(out).split("train").read(range(len(new)), ["key"])]  # by MindSpore
    assert read == [row[1] for row in new]
    manifest, before = (read_finished(root, "records") for root in (out, parent))
    assert manifest["source"]["parent"]["plan_id"] == before["plan_id"]
    assert manifest["source"]["images"]["train"] == images + 3
    assert CliRunner().invoke(records, ["verify", str(out)]).exit_code == 0
    assert "nothing to do" in build(increment, out, "--onto", str(parent)).output


def test_an_old_shard_is_read_once_and_only_if_it_has_changed(source, increment, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    parent, hashed = tmp_path / "parent", []

    def noting(path: Path) -> str:
        if path.suffix in (".mindrecord", ".db"):
            hashed.append(path.relative_to(tmp_path).as_posix())
        return sha256_file(path)

    def grow(out: str) -> list[str]:
        hashed.clear()
        assert build(increment, tmp_path / out, "--onto", str(parent)).exit_code == 0
        return [name for name in hashed if name.startswith("parent/")]

    def opened(name: str) -> list[str]:
        hashed.clear()
        Records.open(tmp_path / name)
        return sorted(name for name in hashed if name.endswith(".mindrecord"))

    assert build(source, parent, "--classes", "found").exit_code == 0
    monkeypatch.setattr("convnext_imagenet.base.protocol.sha256_file", noting)
    assert grow("first") == []  # as they were written
    assert len(opened("first")) == 3  # but nobody has compared them
    assert grow("second") == []  # links changed the time of the inodes only
    assert len(opened("parent")) == 2
    assert grow("third") == []
    assert opened("third") == ["third/train/imagenet-train-00001-of-00002.mindrecord"]
    assert opened("parent") == []
    shutil.rmtree(tmp_path / "first")  # a link less is no change
    shutil.rmtree(tmp_path / "third")
    assert opened("parent") == []
    assert grow("third") == []
    assert opened("second") == ["second/train/imagenet-train-00001-of-00002.mindrecord"]
    shutil.rmtree(tmp_path / "second")
    assert grow("second") == []
    shard = next((parent / "train").glob("*.mindrecord"))
    os.utime(shard)
    assert grow("fourth") == [f"parent/train/{shard.name}"]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert "its SHA-256 is not the recorded one" in build(increment, tmp_path / "fifth", "--onto", str(parent)).output


def test_a_copy_of_records_is_compared(parent, increment, tmp_path):
    """A copy has the times of its copying, however old its receipts are; its tables have no stamps at all."""
    copy = Path(shutil.copytree(parent, tmp_path / "copy"))
    shard = next((copy / "train").glob("*.mindrecord"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"x")
    receipt = shard.with_suffix(".json")
    receipt.write_bytes(receipt.read_bytes())  # later than the shard
    assert "its SHA-256 is not the recorded one" in build(increment, tmp_path / "a", "--onto", str(copy)).output
    shard.write_bytes(whole)
    table = shard.with_suffix(".parquet")
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    found = build(increment, tmp_path / "b", "--onto", str(copy)).output
    assert f"{table.name}: its content has changed" in found


def test_records_with_a_converted_image_grow_with_the_same_option(source, increment, tmp_path):
    whole = Path(shutil.copytree(source, tmp_path / "whole"))
    Image.new("RGB", (20, 20), "red").save(whole / "train" / "n00000030" / "n00000030_0.JPEG", "BMP")
    assert build(whole, tmp_path / "old", "--classes", "found", "--convert").exit_code == 0
    shutil.copytree(increment / "train", whole / "train", dirs_exist_ok=True)
    done = build(whole, tmp_path / "new", "--onto", str(tmp_path / "old"), "--convert")
    assert done.exit_code == 0, done.output
    assert "new: 3 train, 0 val images" in done.output
    refused = build(whole, tmp_path / "other", "--onto", str(tmp_path / "old"))
    assert "pass the same --convert and --quality" in lines_of(refused)


def test_the_whole_tree_may_be_given_and_grown_records_grow_again(parent, source, increment, tmp_path, pieces):
    whole = Path(shutil.copytree(source, tmp_path / "whole"))
    shutil.copytree(increment / "train", whole / "train", dirs_exist_ok=True)
    for data, out in ((increment, "a"), (whole, "b")):
        assert build(data, tmp_path / out, "--onto", str(parent)).exit_code == 0
    shards = [sorted((tmp_path / out / "train").glob("*.mindrecord*")) for out in ("a", "b")]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]
    (whole / "train" / "n00000030" / "n00000030_50.JPEG").write_bytes(pieces.jpeg(950))
    (whole / "train" / "n00000030" / "n00000030_0.JPEG").unlink()  # what the records have stays
    done = build(whole, tmp_path / "third", "--onto", str(tmp_path / "b"))
    assert done.exit_code == 0, done.output
    assert "new: 1 train, 0 val images" in done.output
    third = rows_of(tmp_path / "third")
    assert third[:-1] == rows_of(tmp_path / "b")
    assert third[-1][:2] == (len(third) - 1, "n00000030_50")
    assert (tmp_path / "third" / "train" / "imagenet-train-00002-of-00003.mindrecord").is_file()


def test_resume_repair_and_another_file_system(parent, increment, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "grown"
    assert build(increment, whole, "--onto", str(parent)).exit_code == 0

    def no_links(source, target) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "link", no_links)
    assert build(increment, out, "--onto", str(parent)).exit_code == 0
    linked, own = sorted((out / "train").glob("*.mindrecord"))
    assert not linked.samefile(parent / "train" / linked.name)
    for path in (linked, own):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = build(increment, out, "--onto", str(parent), "--repair")
    assert done.exit_code == 0, done.output
    names = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert [name for name in names if (whole / name).read_bytes() != (out / name).read_bytes()] == []
    (out / "index.parquet").write_bytes(b"")
    assert CliRunner().invoke(records, ["repair", str(out)]).exit_code == 0


def test_what_contradicts_the_records_is_refused(parent, increment, tmp_path, pieces):
    folder = increment / "train" / "n00000010"
    broken = Path(shutil.copytree(parent, tmp_path / "broken"))
    shard = next((broken / "train").glob("*.mindrecord"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")

    def stored_with_other_bytes() -> None:
        (folder / "n00000010_1.JPEG").write_bytes(pieces.jpeg(77, size_px=20))

    def new_class() -> None:
        (folder.parent / "n00000040").mkdir()
        (folder.parent / "n00000040" / "n00000040_1.JPEG").write_bytes(pieces.jpeg(1))

    def too_large() -> None:
        (folder / "n00000010_8.JPEG").write_bytes(pieces.jpeg(1, size_px=900))

    def another_devkit() -> None:
        devkit = increment / "ILSVRC2012_devkit_t12.tar.gz"
        devkit.unlink()
        pieces.tar_gz(devkit, pieces.devkit_members(pieces.leaves, (1, 1, 1, 2, 2, 3, 3, 3)))

    cases = [
        (None, ["--onto", str(parent), "--seed", "3"], "its seed is 0, but here it is 3; pass the same --seed"),
        (None, ["--onto", str(parent), "--max-side", "64"], "its reencoding is"),
        (None, ["--onto", str(parent), "--fingerprints"], "pass --fingerprints for both or for neither"),
        (None, ["--onto", str(parent), "--classes", "found"], "--classes has no effect with --onto"),
        (None, ["--onto", str(broken)], "its SHA-256 is not the recorded one"),
        (None, ["--onto", str(tmp_path / "absent")], "no such directory"),
        (stored_with_other_bytes, ["--onto", str(parent)], "train/n00000010_1: stored with label 0"),
        (new_class, ["--onto", str(parent)], "n00000040: not among the 3 classes of the records"),
        (too_large, ["--onto", str(parent)], "does not fit into the pages"),
        (another_devkit, ["--onto", str(parent)], "its devkit_sha256 is"),
    ]
    for number, (change, options, message) in enumerate(cases):
        saved = Path(shutil.copytree(increment, tmp_path / f"saved{number}"))
        if change is not None:
            change()
        done = build(increment, tmp_path / f"out{number}", *options)
        assert done.exit_code in (1, 2), done.output
        assert message in lines_of(done)
        assert not (tmp_path / f"out{number}" / "_SUCCESS").exists()
        shutil.rmtree(increment)
        saved.rename(increment)


def test_a_parent_that_changed_is_another_plan(parent, increment, tmp_path):
    out = tmp_path / "grown"
    assert build(increment, out, "--onto", str(parent)).exit_code == 0
    again = tmp_path / "again"
    assert build(increment, again, "--onto", str(out)).exit_code == 0  # nothing new, and a parent of its own
    done = build(increment, again, "--onto", str(parent))
    assert done.exit_code == 1
    assert "belongs to another run" in done.output


def test_differences_are_counted_by_kind(parent, increment, tmp_path):
    grown = tmp_path / "grown"
    assert build(increment, grown, "--onto", str(parent)).exit_code == 0
    found = CliRunner().invoke(records, ["diff", str(parent), str(grown), "--out", str(tmp_path / "diff.parquet")])
    assert found.output.splitlines()[1].split() == ["train", "3", "0", "0", "0"]
    assert pq.read_table(tmp_path / "diff.parquet")["key"].to_pylist() == sorted(NEW)
    back = CliRunner().invoke(records, ["diff", str(grown), str(parent)])
    assert back.output.splitlines()[1].split() == ["train", "0", "3", "0", "0"]
    assert CliRunner().invoke(records, ["diff", str(parent), f"file://{parent}"]).output == "no image differs\n"
    assert json.loads((grown / "plan.json").read_text())["plan"]["inherited"]["train"]


def test_more_train_shards_on_request(source, tmp_path):
    out = tmp_path / "many"
    assert build(source, out, "--classes", "found", "--train-shards", "15").exit_code == 0
    assert len(list((out / "train").glob("*.mindrecord"))) == 15
    assert len(list(Records.open(out).split("train").read(range(15)))) == 15
    done = build(source, tmp_path / "more", "--classes", "found", "--train-shards", "16")
    assert "--train-shards 16: train has only 15 images; pass fewer" in done.output


def _with_another_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)


def test_a_stored_image_whose_file_is_newer_is_compared_by_its_bytes(parent, source, increment, tmp_path):
    whole = Path(shutil.copytree(source, tmp_path / "whole"))
    shutil.copytree(increment / "train", whole / "train", dirs_exist_ok=True)
    images = sorted(path for path in whole.rglob("*.JPEG") if path.stem not in NEW)
    shard_time = min(path.stat().st_mtime for path in parent.rglob("*.mindrecord"))
    for path in images:
        os.utime(path, (shard_time - 60, shard_time - 60))
    done = build(whole, tmp_path / "old", "--onto", str(parent))
    assert "already there: 22 images, by key and size; 0 newer than their shards" in done.output
    os.utime(images[0])
    done = build(whole, tmp_path / "touched", "--onto", str(parent))
    assert done.exit_code == 0, done.output
    assert "by key and size; 1 newer than their shards, to be compared by SHA-256" in done.output
    _with_another_bit(images[0])
    done = build(whole, tmp_path / "changed", "--onto", str(parent))
    assert done.exit_code == 1
    assert f"1 image stored with other bytes, of the same size: train/{images[0].stem}; changed" in lines_of(done)
    assert not (tmp_path / "changed").exists()


def test_images_that_are_in_quarantine_stay_there_and_are_counted(source, increment, tmp_path):
    whole = Path(shutil.copytree(source, tmp_path / "whole"))
    path = whole / "train" / "n00000030" / "n00000030_0.JPEG"
    image = path.read_bytes()
    path.write_bytes(b"")
    assert build(whole, tmp_path / "old", "--classes", "found").exit_code == 0
    path.write_bytes(image)
    shutil.copytree(increment / "train", whole / "train", dirs_exist_ok=True)
    done = build(whole, tmp_path / "new", "--onto", str(tmp_path / "old"))
    assert done.exit_code == 0, done.output
    assert "1 of them in quarantine there" in done.output
