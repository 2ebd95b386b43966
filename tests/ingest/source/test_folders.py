"""Folders are listed in a fixed order; nothing is opened, and no link leads out of DATA unasked."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.layout import scan_tree

CLASS = "train/n00000010"
IMAGE = f"{CLASS}/n00000010_99.JPEG"


def test_sizes_and_times_are_those_of_the_files(raw_tree: Path):
    tree = scan_tree(raw_tree)
    for folder in (*tree.train.folders, *tree.val.folders):
        for name, size, time in zip(folder.names, folder.sizes, folder.modified_ns, strict=True):
            status = (raw_tree / folder.path / name).stat()
            assert (size, time) == (status.st_size, status.st_mtime_ns)
    assert tree.val.bytes == sum(path.stat().st_size for path in (raw_tree / "val").iterdir())


def test_names_are_in_byte_order(raw_tree: Path):
    folder = raw_tree / CLASS
    for name in ("Z.JPEG", "a.JPEG", "é.JPEG", "B.JPEG"):
        (folder / name).write_bytes(b"x")
    names = scan_tree(raw_tree).train.folders[0].names
    assert list(names) == sorted(names, key=os.fsencode)
    assert [name for name in names if name[0] in "ZaéB"] == ["B.JPEG", "Z.JPEG", "a.JPEG", "é.JPEG"]


JUNK_FILES = (".DS_Store", "._n00000010_1.JPEG", "Thumbs.db", "Desktop.ini", ".n00000010_3.JPEG.aB3dE9", ".nfs0001")
JUNK_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints")
NO_JUNK = (
    "n00000010_90.jfif",
    "n00000010_91.avif",
    "n00000010_92",
    "n00000010_93.JPEG.part",
    "notes.txt",
    ".a.jpg",
)


def test_junk_is_counted_by_name_and_every_other_file_is_a_row(raw_tree: Path):
    for folder in ("train", CLASS, "val"):
        for name in JUNK_FILES:
            (raw_tree / folder / name).write_bytes(b"x")
        for name in JUNK_FOLDERS:
            (raw_tree / folder / name).mkdir()
            (raw_tree / folder / name / "inside.jpg").write_bytes(b"x")
    for name in NO_JUNK:
        (raw_tree / CLASS / name).write_bytes(b"x")
        (raw_tree / "val" / name).write_bytes(b"x")
    (raw_tree / "train" / "labels.csv").write_bytes(b"x")
    tree = scan_tree(raw_tree)
    assert set(NO_JUNK) < set(tree.train.folders[0].names)
    assert (tree.train.files, tree.val.files) == (18 + len(NO_JUNK), 8 + len(NO_JUNK))
    of_val = {
        **{".DS_Store": 1, "._*": 1, "Thumbs.db": 1, "Desktop.ini": 1, ".*.??????": 1, ".nfs*": 1},
        **{"__MACOSX/": 1, "@eaDir/": 1, "lost+found/": 1, ".*/": 1},
    }
    assert tree.val.notes.ignored.by_name() == of_val
    assert tree.train.notes.ignored.by_name() == {name: 2 * count for name, count in of_val.items()} | {"labels.csv": 1}


def test_many_names_of_files_beside_class_folders_become_one_for_each_ending(raw_tree: Path):
    for number in range(60):
        (raw_tree / "train" / f"{number}.txt").write_bytes(b"x")
    assert scan_tree(raw_tree).train.notes.ignored.by_name() == {"*.txt": 60}


def _class_tar(raw_tree: Path, pieces, wnid: str) -> None:
    folder = raw_tree / "train" / wnid
    (raw_tree / "train" / f"{wnid}.tar").write_bytes(pieces.tar({f.name: f.read_bytes() for f in folder.iterdir()}))


def test_a_half_unpacked_train_loses_no_class(raw_tree: Path, pieces):
    whole = scan_tree(raw_tree).train
    for wnid in ("n00000010", "n00000030"):
        _class_tar(raw_tree, pieces, wnid)
        shutil.rmtree(raw_tree / "train" / wnid)
    half = scan_tree(raw_tree).train
    assert half.shape == "class folders and class tars"
    assert [(one.class_name, sorted(one.names)) for one in half.folders] == [
        (one.class_name, sorted(one.names)) for one in whole.folders
    ]


def test_a_class_that_is_both_folder_and_tar_is_refused(raw_tree: Path, pieces):
    _class_tar(raw_tree, pieces, "n00000020")
    with pytest.raises(IngestError, match=r"n00000020: beside n00000020\.tar, so unpacking may have been interrupted"):
        scan_tree(raw_tree)


@pytest.mark.parametrize("name", ["cats.tar", "n00000050.tar.gz", "train.zip", "more.TGZ"])
def test_an_archive_beside_class_folders_is_refused(raw_tree: Path, name: str):
    (raw_tree / "train" / name).write_bytes(b"x")
    with pytest.raises(IngestError, match="an archive beside classes, so unpacking may have been interrupted; unpack"):
        scan_tree(raw_tree)


@pytest.mark.parametrize("name", [b"notes\n.txt", b"notes\xff.txt"])
def test_ignored_name_of_any_bytes_can_be_printed(raw_tree: Path, name: bytes):
    Path(os.fsdecode(os.fsencode(raw_tree / "train") + b"/" + name)).write_bytes(b"x")
    ignored = scan_tree(raw_tree).notes.ignored
    (counted,) = ignored.by_name()
    assert all(text.isascii() and text.isprintable() for text in (ignored.first, counted))


@pytest.mark.parametrize("name", [b"n00000010_\n1.JPEG", b"n00000010_\xff.JPEG", b"n00000010_\x1b[31m1.JPEG"])
def test_image_name_that_cannot_be_printed_is_refused_in_print(raw_tree: Path, name: bytes):
    Path(os.fsdecode(os.fsencode(raw_tree / CLASS) + b"/" + name)).write_bytes(b"x")
    with pytest.raises(IngestError, match="the name is not printable UTF-8; rename") as caught:
        scan_tree(raw_tree)
    assert str(caught.value).isprintable()
    str(caught.value).encode("utf-8")


@pytest.mark.parametrize("place", [CLASS, "train", "val"])
def test_link_out_of_data_is_followed_only_when_asked(raw_tree: Path, tmp_path: Path, place: str):
    shutil.move(raw_tree / place, tmp_path / "elsewhere")
    (raw_tree / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IngestError, match=rf"{place}: a link out of DATA, to .*elsewhere;.*--follow-links"):
        scan_tree(raw_tree)
    tree = scan_tree(raw_tree, follow_links=True)
    assert (tree.train.files, tree.val.files, tree.follows_links) == (18, 8, True)


def test_link_that_stays_in_data_is_followed(raw_tree: Path):
    (raw_tree / "val").rename(raw_tree / "val-flat")
    (raw_tree / "val").symlink_to("val-flat")
    assert scan_tree(raw_tree).val.files == 8


def test_data_itself_may_be_a_link(raw_tree: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(raw_tree)
    assert scan_tree(tmp_path / "link").train.files == 18


def _link_to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _link_to_image(path: Path) -> None:
    path.symlink_to("n00000010_1.JPEG")


def _socket(path: Path) -> None:
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)


@pytest.mark.parametrize("make", [_link_to_nowhere, _link_to_itself, _link_to_image, os.mkfifo, _socket])
def test_image_that_is_no_plain_file_is_planned_and_counted_as_odd(raw_tree: Path, monkeypatch, make):
    monkeypatch.chdir(raw_tree)
    make(raw_tree / IMAGE)
    tree = scan_tree(raw_tree)
    assert (tree.notes.not_plain.count, tree.notes.not_plain.first) == (1, IMAGE)
    folder = tree.train.folders[0]
    assert folder.sizes[folder.names.index("n00000010_99.JPEG")] == 0


@pytest.mark.parametrize("make", [_link_to_nowhere, _link_to_itself])
def test_broken_link_is_odd_also_when_links_are_followed(raw_tree: Path, make):
    make(raw_tree / IMAGE)
    assert scan_tree(raw_tree, follow_links=True).notes.not_plain.count == 1


def _link_class_folder_twice(root: Path) -> None:
    (root / "train" / "n00000040").symlink_to(root / CLASS)


def _link_back_to_train(root: Path) -> None:
    (root / CLASS / "loop").symlink_to(root / "train")


def _link_class_to_train(root: Path) -> None:
    (root / "train" / "n00000040").symlink_to(root / "train")


def _lose_class_folder(root: Path) -> None:
    shutil.rmtree(root / CLASS)
    (root / CLASS).symlink_to("gone")


def _link_class_folder_to_itself(root: Path) -> None:
    (root / "train" / "n00000040").symlink_to("n00000040")


def _nest_folder(root: Path) -> None:
    (root / CLASS / "images").mkdir()


def _put_loose_image_in_train(root: Path) -> None:
    shutil.copy(root / "val" / "ILSVRC2012_val_00000001.JPEG", root / "train" / "n00000010_77.JPEG")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_link_class_folder_twice, "n00000040: links to the same folder as .*n00000010"),
        (_link_back_to_train, "loop: a folder inside a class folder"),
        (_link_class_to_train, "a folder inside a class folder"),
        (_lose_class_folder, "n00000010: a broken or circular link"),
        (_link_class_folder_to_itself, "n00000040: a broken or circular link"),
        (_nest_folder, "images: a folder inside a class folder"),
        (_put_loose_image_in_train, "both class folders and loose images, such as 'n00000010_77.JPEG'"),
    ],
)
@pytest.mark.parametrize("follow_links", [False, True])
def test_damaged_folder_is_refused(raw_tree: Path, damage, message: str, follow_links: bool):
    damage(raw_tree)
    with pytest.raises(IngestError, match=message):
        scan_tree(raw_tree, follow_links)
