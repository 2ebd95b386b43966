"""Every layout of the same images gives the same records, and says which layout it was."""

import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.ingest.cli import main
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels import kaggle
from convnext_imagenet.ingest.labels.given import Wishes
from convnext_imagenet.ingest.make_plan import make_given_plan, make_plan
from convnext_imagenet.ingest.source.archives import OFFICIAL_MD5
from convnext_imagenet.ingest.source.detect import scan_data
from convnext_imagenet.ingest.source.layout import scan_tree
from convnext_imagenet.ingest.source.unpack import Unpacker
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records

pytestmark = pytest.mark.usefixtures("write_here")


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


def _archive(path: Path, files: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_hugging_face_archives_give_the_shards_of_the_official_tree(pieces, raw_tree: Path, tmp_path: Path):
    _build(raw_tree, tmp_path / "official")
    train = [(f"{path.stem}_{path.parent.name}.JPEG", path.read_bytes()) for path in sorted(raw_tree.glob("train/*/*"))]
    val = [
        (f"ILSVRC2012_val_{number:08d}_{wnid}.JPEG", (raw_tree / f"val/ILSVRC2012_val_{number:08d}.JPEG").read_bytes())
        for number, wnid in enumerate(pieces.devkit.val_wnids, start=1)
    ]
    data = tmp_path / "hf"
    (data / "data").mkdir(parents=True)
    for number in range(2):
        _archive(data / "data" / f"train_images_{number}.tar.gz", train[number::2])
    _archive(data / "data" / "val_images.tar.gz", val)
    shutil.copy(raw_tree / "ILSVRC2012_devkit_t12.tar.gz", data)
    output = _build(data, tmp_path / "packed-out")
    assert "in 2 archives of Hugging Face's imagenet-1k, 18 images" in output
    assert "verified against the devkit" in output
    unpacked = tmp_path / "unpacked"
    for split, files in (("train", train), ("val", val)):
        (unpacked / split).mkdir(parents=True)
        for name, content in files:
            (unpacked / split / name).write_bytes(content)
    shutil.copy(raw_tree / "ILSVRC2012_devkit_t12.tar.gz", unpacked)
    _build(unpacked, tmp_path / "unpacked-out")
    assert _shards(tmp_path / "packed-out") == _shards(tmp_path / "official") == _shards(tmp_path / "unpacked-out")
    wrong = val[0][0].replace(pieces.devkit.val_wnids[0], pieces.devkit.val_wnids[1])
    (unpacked / "val" / val[0][0]).rename(unpacked / "val" / wrong)
    with pytest.raises(IngestError, match=r"says n000000\d0, but the ground truth says"):
        make_plan(scan_tree(unpacked), "found", unverified=False, devkit=None, seed=0)


def test_imagenette_has_names_of_both_splits_in_both(pieces, raw_tree: Path, tmp_path: Path):
    wnids = pieces.devkit.val_wnids
    for number, wnid in enumerate(wnids, start=1):
        path = raw_tree / "val" / f"ILSVRC2012_val_{number:08d}.JPEG"
        folder = raw_tree / ("train" if number % 2 else "val") / wnid
        if folder.parent.name == "val" or folder.is_dir():
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
        else:
            path.unlink()
    moved = raw_tree / "train" / "n00000010" / "n00000010_3.JPEG"
    (raw_tree / "val" / "n00000010").mkdir(exist_ok=True)
    moved.rename(raw_tree / "val" / "n00000010" / moved.name)
    plan = make_plan(scan_tree(raw_tree), "found", unverified=False, devkit=None, seed=0)
    train, val = plan.splits
    assert plan.source["verified"]
    assert any(key.startswith("ILSVRC2012_val") for key in train.keys)
    assert "n00000010_3" in val.keys
    stray = next(path for path in raw_tree.glob("train/*/ILSVRC*"))
    other = next(folder for folder in sorted((raw_tree / "train").iterdir()) if folder != stray.parent)
    stray.rename(other / stray.name)
    with pytest.raises(IngestError, match=r"the folder says n\d+, but the ground truth says"):
        make_plan(scan_tree(raw_tree), "found", unverified=False, devkit=None, seed=0)


def test_imagenet_100_of_kaggle_and_tiny_imagenet(pieces, raw_tree: Path, tmp_path: Path):
    kaggle100, tiny = tmp_path / "imagenet100", tmp_path / "tiny"
    for number, folder in enumerate(sorted((raw_tree / "train").iterdir())):
        shutil.copytree(folder, kaggle100 / f"train.X{number % 2 + 1}" / folder.name)
        (tiny / "train" / folder.name / "images").mkdir(parents=True)
        (tiny / "train" / folder.name / f"{folder.name}_boxes.txt").write_text("boxes")
        for image in range(2):
            path = tiny / "train" / folder.name / "images" / f"{folder.name}_{image}.JPEG"
            path.write_bytes(pieces.jpeg(number * 10 + image))
    (tiny / "val" / "images").mkdir(parents=True)
    (tiny / "test" / "images").mkdir(parents=True)
    (tiny / "test" / "images" / "test_0.JPEG").write_bytes(pieces.jpeg(99))
    for number, wnid in enumerate(pieces.devkit.val_wnids, start=1):
        (kaggle100 / "val.X" / wnid).mkdir(parents=True, exist_ok=True)
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        shutil.copy(raw_tree / "val" / name, kaggle100 / "val.X" / wnid / name)
    shutil.rmtree(kaggle100 / "val.X" / "n00000040")
    (kaggle100 / "Labels.json").write_text("{}")
    tree = scan_data(kaggle100, Unpacker(tmp_path / "u"), unverified=True)
    plan = make_plan(tree, "found", unverified=True, devkit=None, seed=0)
    assert [len(split.paths) for split in plan.splits] == [18, 7]
    shutil.copy(raw_tree / "ILSVRC2012_devkit_t12.tar.gz", kaggle100)
    plan = make_plan(scan_tree(kaggle100), "found", unverified=False, devkit=None, seed=0)
    assert plan.source["verified"]
    wnids = ["n00000010", "n00000020", "n00000030"]
    for number in range(len(wnids)):
        (tiny / "val" / "images" / f"val_{number}.JPEG").write_bytes(pieces.jpeg(50 + number))
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n" for number, wnid in enumerate(wnids)]
    (tiny / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    tree = scan_data(tiny, Unpacker(tmp_path / "u"))
    plan = make_given_plan(tree, tiny, "all", False, Wishes(), seed=0)
    assert tree.kind == "Tiny ImageNet"
    assert [len(split.paths) for split in plan.splits] == [6, 3]
    assert [plan.classes[label].wnid for label in plan.splits[1].labels] == wnids
    assert tree.unlabelled.count == 1
    (tiny / "val" / "images" / "val_9.JPEG").write_bytes(pieces.jpeg(60))
    with pytest.raises(IngestError, match=r"1 image only in it, or only in val/images: val_9\.JPEG"):
        scan_data(tiny, Unpacker(tmp_path / "u"))
