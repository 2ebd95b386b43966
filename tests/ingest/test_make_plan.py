"""Every layout of the same images gives the same records, and says which layout it was."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.ingest.cli import main
from convnext_imagenet.ingest.labels import kaggle
from convnext_imagenet.ingest.source.archives import OFFICIAL_MD5
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records


@pytest.fixture(autouse=True)
def write_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards be written in this process, which is faster than a new one."""

    def run_here(function, tasks, count, workers, on_progress, on_unit) -> None:
        for task in tasks:
            function(task, on_progress)

    monkeypatch.setattr("convnext_imagenet.ingest.shards.pool.run_units", run_here)


def _build(data: Path, out: Path, *options: str) -> str:
    result = CliRunner().invoke(main, ["build", str(data), "--out", str(out), "--classes", "found", *options])
    assert result.exit_code == 0, result.output
    assert verify_records(out).problems == ()
    return result.output


def _shards(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*/*.mindrecord"))}


def _listing(root: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*"))


@pytest.mark.slow
def test_every_layout_gives_the_same_shards_and_touches_nothing(
    pieces, raw_tree: Path, tar_tree: Path, kaggle_tree: Path, tmp_path: Path, monkeypatch
):
    digest = hashlib.sha256("".join(f"{wnid}\n" for wnid in pieces.devkit.val_wnids).encode()).hexdigest()
    monkeypatch.setattr(kaggle, "OFFICIAL_VAL_SHA256", digest)
    foldered = Path(shutil.copytree(raw_tree, tmp_path / "foldered"))
    for number, wnid in enumerate(pieces.devkit.val_wnids, start=1):
        (foldered / "val" / wnid).mkdir(exist_ok=True)
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (foldered / "val" / name).rename(foldered / "val" / wnid / name)
    seen = {
        raw_tree: ["train: 3 class folders, 18", "val: flat, 8", "verified against the devkit"],
        foldered: ["val: 4 class folders, 8 images", "verified against the devkit"],
        tar_tree: ["3 class tars in ILSVRC2012_img_train.tar, 18 images", "flat in ILSVRC2012_img_val.tar, 8 images"],
        kaggle_tree: [
            "Kaggle's layout",
            "verified against the official val labels",
            "train images: their number was not checked",
        ],
    }
    shards = []
    for root, texts in seen.items():
        before = _listing(root)
        output = _build(root, tmp_path / f"{root.name}-out")
        assert [text for text in texts if text not in output] == [], output
        assert _listing(root) == before
        shards.append(_shards(tmp_path / f"{root.name}-out"))
    assert len(shards[0]) == 2
    assert all(each == shards[0] for each in shards)


def test_images_that_are_no_plain_files_cost_one_image_each(raw_tree: Path, tmp_path: Path):
    folder = raw_tree / "train" / "n00000010"
    for number in range(2):
        (folder / f"n00000010_{number}.JPEG").unlink()
    os.mkfifo(folder / "n00000010_0.JPEG")
    (folder / "n00000010_1.JPEG").symlink_to("n00000010_2.JPEG")
    output = _build(raw_tree, tmp_path / "out", "--max-quarantine", "2")
    assert "to be quarantined (links, pipes or devices): 2, such as" in output
    assert "n00000010_0.JPEG  not_a_file: a pipe" in output
    assert "n00000010_1.JPEG  not_a_file: a symbolic link; with --follow-links" in output
    assert Records.open(tmp_path / "out").manifest.splits["train"].rows == 16
    output = _build(raw_tree, tmp_path / "followed", "--max-quarantine", "1", "--follow-links")
    assert Records.open(tmp_path / "followed").manifest.splits["train"].rows == 17
    assert Records.open(tmp_path / "followed").manifest.source["follows_links"]


def test_archives_are_checked_before_anything_else(tar_tree: Path, tmp_path: Path, monkeypatch):
    arguments = ["build", str(tar_tree), "--out", str(tmp_path / "out"), "--classes", "found", "--check-archives"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "ILSVRC2012_img_train.tar: its MD5 is" in result.output
    assert not (tmp_path / "out").exists()
    for path in tar_tree.iterdir():
        monkeypatch.setitem(OFFICIAL_MD5, path.name, hashlib.md5(path.read_bytes()).hexdigest())
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "the MD5 is the official one" in result.output
