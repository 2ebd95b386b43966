"""Kaggle's files are believed when they state the official labels, and compared with the devkit when it is there."""

import hashlib
import shutil
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels import kaggle
from convnext_imagenet.ingest.labels.authority import LabelAuthority
from convnext_imagenet.ingest.labels.classes import ClassRule
from convnext_imagenet.ingest.labels.devkit import read_devkit
from convnext_imagenet.ingest.labels.kaggle import cross_check, read_kaggle, read_mapping, read_solution
from convnext_imagenet.ingest.labels.labels import label_tree
from convnext_imagenet.ingest.make_plan import make_plan
from convnext_imagenet.ingest.source.layout import scan_tree

SOLUTION, MAPPING = "LOC_val_solution.csv", "LOC_synset_mapping.txt"


def _digest(devkit: LabelAuthority) -> str:
    return hashlib.sha256("".join(f"{wnid}\n" for wnid in devkit.val_wnids).encode()).hexdigest()


def _make_plan(root: Path, **options):
    return make_plan(scan_tree(root), **{"classes": "found", "unverified": False, "devkit": None, "seed": 0} | options)


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def official(pieces, monkeypatch) -> str:
    """Takes the small tree's val labels for the official ones."""
    digest = _digest(pieces.devkit)
    monkeypatch.setattr(kaggle, "OFFICIAL_VAL_SHA256", digest)
    return digest


def test_kaggle_layout_gives_the_labels_of_the_tree(pieces, raw_tree: Path, kaggle_tree: Path, official: str):
    one = label_tree(scan_tree(raw_tree), pieces.devkit, ClassRule("found"))
    other = label_tree(scan_tree(kaggle_tree), read_kaggle(kaggle_tree), ClassRule("found"))
    for split, same in ((one.train, other.train), (one.val, other.val)):
        assert dict(zip(split.keys, split.labels, strict=True)) == dict(zip(same.keys, same.labels, strict=True))
    assert [entry.wnid for entry in one.classes] == [entry.wnid for entry in other.classes]
    assert other.train.paths[0] == "ILSVRC/Data/CLS-LOC/train/n00000010/n00000010_0.JPEG"


def test_manifest_says_what_was_verified_and_what_was_not(kaggle_tree: Path, official: str):
    source = _make_plan(kaggle_tree).source
    assert {key: source[key] for key in ("verified", "devkit_sha256", "kaggle_sha256", "train_counts")} == {
        "verified": True,
        "devkit_sha256": None,
        "kaggle_sha256": official,
        "train_counts": "not checked",
    }
    assert source["incomplete_classes"] is None


def test_classes_carry_no_number_of_train_images(kaggle_tree: Path, official: str):
    entry = _make_plan(kaggle_tree).classes[0]
    assert (entry.wnid, entry.name, entry.devkit_train) == ("n00000010", "first", None)


def test_devkit_beside_kaggles_files_is_compared_with_them(raw_tree: Path, kaggle_tree: Path, pieces):
    shutil.copy(raw_tree / "ILSVRC2012_devkit_t12.tar.gz", kaggle_tree)
    source = _make_plan(kaggle_tree).source
    assert source["kaggle_sha256"] == _digest(pieces.devkit)
    assert source["train_counts"] == "each class against the devkit"
    _edit(
        kaggle_tree / SOLUTION,
        "ILSVRC2012_val_00000003,n00000020 1 2 30 40 n00000020",
        "ILSVRC2012_val_00000003,n00000010 1 2 30 40 n00000010",
    )
    with pytest.raises(IngestError, match="image 3 is n00000010, but the devkit says n00000020"):
        _make_plan(kaggle_tree)


def test_devkit_alone_suffices_in_kaggles_layout(raw_tree: Path, kaggle_tree: Path):
    shutil.copy(raw_tree / "ILSVRC2012_devkit_t12.tar.gz", kaggle_tree)
    (kaggle_tree / SOLUTION).unlink()
    assert _make_plan(kaggle_tree).source["kaggle_sha256"] is None


def test_image_beyond_the_ground_truth_is_a_contradiction(kaggle_tree: Path, pieces):
    _edit(kaggle_tree / SOLUTION, "val_00000008,", "val_00000009,")
    with pytest.raises(IngestError, match="image 9 is n00000010, but the devkit says no label"):
        cross_check(kaggle_tree, pieces.devkit)


def test_labels_that_are_not_the_official_ones_are_not_believed(kaggle_tree: Path):
    with pytest.raises(IngestError, match=r"its 8 labels are not the official 50,000.*put ILSVRC2012_devkit_t12"):
        _make_plan(kaggle_tree)


def test_single_wrong_label_is_noticed(kaggle_tree: Path, official: str):
    _edit(kaggle_tree / SOLUTION, "n00000040 1 2 30 40 n00000040", "n00000030 1 2 30 40 n00000030")
    with pytest.raises(IngestError, match="not the official"):
        read_kaggle(kaggle_tree)


def test_number_that_is_missing_is_noticed(kaggle_tree: Path, official: str):
    _edit(kaggle_tree / SOLUTION, "val_00000008,", "val_00000010,")
    with pytest.raises(IngestError, match="not the official"):
        read_kaggle(kaggle_tree)


def test_mapping_of_other_classes_is_refused(kaggle_tree: Path, official: str):
    _edit(kaggle_tree / MAPPING, "n00000040", "n00000041")
    with pytest.raises(IngestError, match="its classes differ from the solution's: n00000040, n00000041"):
        read_kaggle(kaggle_tree)


@pytest.mark.parametrize("name", [SOLUTION, MAPPING])
def test_missing_file_is_named(kaggle_tree: Path, official: str, name: str):
    (kaggle_tree / name).unlink()
    with pytest.raises(IngestError, match=rf"{name}: cannot be read .*; download it from Kaggle again"):
        read_kaggle(kaggle_tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not start with"),
        ("ImageId,PredictionString\n", "contains no labels"),
        ("id,label\n", "does not start with ImageId,PredictionString"),
        ("ILSVRC2012_val_00000001,n00000010 1 2 3 4\n", "does not start with"),
        ("{}ILSVRC2012_val_00000001,n00000010 1 2 3\n", "line 2 is .*expected an image of one class"),
        ("{}ILSVRC2012_val_00000001,\n", "expected an image of one class"),
        ("{}ILSVRC2012_val_00000001,n00000010 1 2 3 4 n00000020 1 2 3 4\n", "expected an image of one class"),
        ("{}ILSVRC2012_val_00000001,cat 1 2 3 4\n", "'cat' is not a wnid"),
        ("{}ILSVRC2012_val_00000000,n00000010 1 2 3 4\n", "expected an image"),
        ("{}ILSVRC2012_val_1,n00000010 1 2 3 4\n", "expected an image"),
        ("{}../../etc/passwd,n00000010 1 2 3 4\n", "expected an image"),
        (
            "{0}ILSVRC2012_val_00000001,n00000010 1 2 3 4\nILSVRC2012_val_00000001,n00000010 1 2 3 4\n",
            "is listed twice",
        ),
        ("{}" + "\0" * 50, "expected an image"),
        ("{}" + "x" * 200_000, "expected an image"),
    ],
)
def test_damaged_solution_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / SOLUTION).write_text(text.format("ImageId,PredictionString\n"))
    with pytest.raises(IngestError, match=message):
        read_solution(tmp_path / SOLUTION)


@pytest.mark.parametrize("text", ["tench\n", "n00000010\n", "n00000010 a\nn00000010 b\n", "n1 a\n", "\n"])
def test_damaged_mapping_is_refused(tmp_path: Path, text: str):
    (tmp_path / MAPPING).write_text(text)
    with pytest.raises(IngestError, match=r"line \d is .*expected a new wnid and its names"):
        read_mapping(tmp_path / MAPPING)


def test_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / SOLUTION).write_bytes(b"\xff\xfe")
    with pytest.raises(IngestError, match="not a text file"):
        read_solution(tmp_path / SOLUTION)


@pytest.mark.parametrize("split", ["train", "val"])
def test_kaggle_layout_without_a_split_is_refused(kaggle_tree: Path, split: str):
    shutil.rmtree(kaggle_tree / "ILSVRC" / "Data" / "CLS-LOC" / split)
    with pytest.raises(IngestError, match=f"Kaggle's layout, but ILSVRC/Data/CLS-LOC/{split}/ is missing"):
        scan_tree(kaggle_tree)


@pytest.mark.parametrize("inner", ["ILSVRC", "ILSVRC/Data"])
def test_folder_inside_kaggles_layout_is_named(kaggle_tree: Path, inner: str):
    with pytest.raises(IngestError, match="for Kaggle's layout, pass the folder that contains ILSVRC/"):
        scan_tree(kaggle_tree / inner)


def test_whole_set_is_checked_by_its_total(pieces, official: str, kaggle_tree: Path, monkeypatch):
    authority = read_kaggle(kaggle_tree)
    monkeypatch.setattr("convnext_imagenet.ingest.labels.classes.OFFICIAL_CLASSES", 4)
    monkeypatch.setattr("convnext_imagenet.ingest.labels.labels.OFFICIAL_VAL_PER_CLASS", 2)
    train = {wnid: [f"{wnid}_{n}.JPEG" for n in range(3)] for wnid in sorted(authority.names)}
    val = {"": [f"ILSVRC2012_val_{n:08d}.JPEG" for n in range(1, 9)]}
    with pytest.raises(IngestError, match="train/: 12 images, but the official set has 1,281,167"):
        label_tree(pieces.tree(train, val), authority, ClassRule("all"))


def test_genuine_labels_are_the_official_ones(shared_data: Path, tmp_path: Path):
    devkit = read_devkit(shared_data / "nette96" / "ILSVRC2012_devkit_t12.tar.gz").authority
    rows = [f"ILSVRC2012_val_{n:08d},{wnid} 0 0 9 9 " for n, wnid in enumerate(devkit.val_wnids, start=1)]
    (tmp_path / SOLUTION).write_text("\n".join(["ImageId,PredictionString", *rows]) + "\n")
    (tmp_path / MAPPING).write_text("".join(f"{wnid} {name}\n" for wnid, name in devkit.names.items()))
    files = read_kaggle(tmp_path)
    assert list(files.val_wnids) == list(devkit.val_wnids)
    assert len(files.names) == 1000
