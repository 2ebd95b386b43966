"""The scan finds what is there, in a fixed order, and refuses what it cannot read as a raw tree."""

import os
import shutil
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.layout import find_devkit, scan_tree


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
    assert tree.ignored.count == 0


def test_sizes_are_those_of_the_files(raw_tree: Path):
    tree = scan_tree(raw_tree)
    for folder in (*tree.train.folders, *tree.val.folders):
        for name, size in zip(folder.names, folder.sizes, strict=True):
            assert size == (raw_tree / folder.path / name).stat().st_size
    assert tree.val.bytes == sum(path.stat().st_size for path in (raw_tree / "val").iterdir())


def test_names_are_in_byte_order(raw_tree: Path):
    folder = raw_tree / "train" / "n00000010"
    for name in ("Z.JPEG", "a.JPEG", "é.JPEG", "B.JPEG"):
        (folder / name).write_bytes(b"x")
    names = scan_tree(raw_tree).train.folders[0].names
    assert list(names) == sorted(names, key=os.fsencode)
    assert [name for name in names if name[0] in "ZaéB"] == ["B.JPEG", "Z.JPEG", "a.JPEG", "é.JPEG"]


def test_hidden_and_other_files_are_ignored_and_counted(raw_tree: Path):
    (raw_tree / "train" / ".DS_Store").write_bytes(b"x")
    (raw_tree / "train" / "n00000010" / "._n00000010_1.JPEG").write_bytes(b"x")
    (raw_tree / "train" / "n00000010" / "Thumbs.db").write_bytes(b"x")
    (raw_tree / "train" / "n00000010.tar").write_bytes(b"x")
    (raw_tree / "val" / ".hidden").mkdir()
    tree = scan_tree(raw_tree)
    assert (tree.ignored.count, tree.ignored.first) == (5, "train/.DS_Store")
    assert tree.train.files == 18


def test_linked_class_folder_is_followed(raw_tree: Path, tmp_path: Path):
    elsewhere = shutil.move(raw_tree / "train" / "n00000010", tmp_path / "elsewhere")
    (raw_tree / "train" / "n00000010").symlink_to(elsewhere)
    assert scan_tree(raw_tree).train.files == 18


def _link_class_folder_twice(root: Path) -> None:
    (root / "train" / "n00000040").symlink_to(root / "train" / "n00000010")


def _link_back_to_train(root: Path) -> None:
    (root / "train" / "n00000010" / "loop").symlink_to(root / "train")


def _link_class_to_train(root: Path) -> None:
    (root / "train" / "n00000040").symlink_to(root / "train")


def _break_link(root: Path) -> None:
    (root / "train" / "n00000010" / "n00000010_99.JPEG").symlink_to(root / "nowhere")


def _put_pipe(root: Path) -> None:
    os.mkfifo(root / "val" / "ILSVRC2012_val_00000009.JPEG")


def _nest_folder(root: Path) -> None:
    (root / "train" / "n00000010" / "images").mkdir()


def _put_loose_image_in_train(root: Path) -> None:
    shutil.copy(root / "val" / "ILSVRC2012_val_00000001.JPEG", root / "train" / "n00000010_77.JPEG")


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
        (_link_class_folder_twice, "n00000040: leads to the same folder as .*n00000010"),
        (_link_back_to_train, "loop: a folder inside a class folder"),
        (_link_class_to_train, "a folder inside a class folder"),
        (_break_link, r"n00000010_99\.JPEG: cannot be looked at .*link to nowhere"),
        (_put_pipe, "ILSVRC2012_val_00000009.JPEG: not a regular file"),
        (_nest_folder, "images: a folder inside a class folder"),
        (_put_loose_image_in_train, "both class folders, .* and loose images, such as 'n00000010_77.JPEG'"),
        (_flatten_train, "train/ holds images outside class folders"),
        (_empty_val, "val: holds no images and no class folders"),
        (lambda root: shutil.rmtree(root / "val"), "has no folder val/"),
        (lambda root: shutil.rmtree(root / "train"), "has no folder train/"),
        (lambda root: shutil.rmtree(root), "raw: no such folder; .* try `make demo`"),
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
