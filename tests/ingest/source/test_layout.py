"""Each layout that people have is recognised, and what is none is refused with what was expected."""

import shutil
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.layout import find_devkit, scan_tree


def test_flat_val_and_class_folders_are_scanned(raw_tree: Path):
    tree = scan_tree(raw_tree)
    assert [folder.path for folder in tree.train.folders] == [
        "train/n00000010",
        "train/n00000020",
        "train/n00000030",
    ]
    assert (tree.train.is_flat, tree.val.is_flat) == (False, True)
    assert (tree.train.files, tree.val.files) == (18, 8)
    assert tree.devkit == raw_tree / "ILSVRC2012_devkit_t12.tar.gz"
    assert tree.notes.ignored.count == 0


def _flatten_train(root: Path) -> None:
    for folder in list((root / "train").iterdir()):
        for path in folder.iterdir():
            shutil.move(path, root / "train")
        folder.rmdir()


def _empty_val(root: Path) -> None:
    shutil.rmtree(root / "val")
    (root / "val").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flatten_train, "train/ contains images outside class folders"),
        (_empty_val, "val: contains no images and no class folders"),
        (lambda root: shutil.rmtree(root / "val"), "has no folder val/"),
        (lambda root: shutil.rmtree(root / "train"), "has no folder train/"),
        (lambda root: shutil.rmtree(root), "raw: no such folder; pass the folder of the raw images"),
    ],
)
def test_damaged_tree_is_refused(raw_tree: Path, damage, message: str):
    damage(raw_tree)
    with pytest.raises(IngestError, match=message):
        scan_tree(raw_tree)


def test_file_in_place_of_the_tree_is_refused(raw_tree: Path):
    with pytest.raises(IngestError, match="not a folder"):
        scan_tree(raw_tree / "ILSVRC2012_devkit_t12.tar.gz")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], None),
        (["notes-on-devkit.txt", ".devkit.tar.gz"], None),
        (["ILSVRC2012_devkit_t3.tar.gz", "ILSVRC2012_devkit_t12.tar.gz"], "ILSVRC2012_devkit_t12.tar.gz"),
        (["ILSVRC2012_devkit_t3.tar.gz", "ILSVRC2012_devkit_t12/"], "ILSVRC2012_devkit_t12"),
        (["ILSVRC2012_devkit_t12/", "ILSVRC2012_devkit_t12.tar.gz"], "ILSVRC2012_devkit_t12.tar.gz"),
        (["my-devkit.tgz"], "my-devkit.tgz"),
    ],
)
def test_devkit_is_found_beside_the_splits(tmp_path: Path, names: list[str], expected: str | None):
    for name in names:
        if name.endswith("/"):
            (tmp_path / name / "data").mkdir(parents=True)
        else:
            (tmp_path / name).write_bytes(b"x")
    assert find_devkit(tmp_path) == (tmp_path / expected if expected else None)
