"""What lies in DATA in place of a split is named, with what to do."""

import re
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.detect import scan_data
from convnext_imagenet.ingest.source.layout import scan_tree
from convnext_imagenet.ingest.source.missing_split import look_around
from convnext_imagenet.ingest.source.unpack import Unpacker


@pytest.mark.parametrize(
    ("files", "split", "words"),
    [
        (["valid/cat/1.jpg"], "val", r"found valid/; .*: ln -s valid /\S+/val"),
        (["Train/cat/1.jpg"], "train", "found Train/; .*rename it"),
        (["validation/1.jpg"], "val", "found validation/"),
        (["train\\cat\\1.jpg"], "train", r"backslashes in their names.* archive of Windows was unpacked wrongly"),
        (["train.tar.00", "train.tar.01"], "train", r"a part of an archive; join .*: cat train\.tar\.\* > train\.tar"),
        (["train.zip.part1", "train.zip.part2"], "train", r"cat train\.zip\.\* > train\.zip"),
        (["train.z01", "train.zip"], "train", "unpack the first part with 7z"),
        (["train.zip", "val.zip"], "val", r"found val\.zip, an archive; unpack it"),
        (["flowers.tgz"], "train", r"found flowers\.tgz, an archive; unpack it"),
        (["ILSVRC2012_img_train.tar.gz"], "train", r"gunzip ILSVRC2012_img_train\.tar\.gz"),
        (["ILSVRC2012_img_train_t3.tar"], "train", "the dogs of Task 3"),
        (["train_images_0.tar.gz"], "train", r"Hugging Face's imagenet-1k; unpack it into train/"),
        (["ILSVRC2012_devkit_t12.tar.gz"], "train", "expected train/ and val/ in DATA"),
        (["ILSVRC2012_img_val.tar"], "train", "expected train/ and val/ in DATA"),
        (["set/train/cat/1.jpg", "set/val/cat/1.jpg"], "train", r"found /\S+/set/train; pass /\S+/set as DATA"),
        (["cat/1.jpg", "dog/1.jpg"], "train", "found cat/ with images: .* move the class folders into train/"),
        (["train/cat/1.jpg"], "val", "move some images of each class to val/CLASS/"),
        (["__MACOSX/train/x", ".valid/x"], "train", "expected train/ and val/ in DATA"),
        ([], "train", "expected train/ and val/ in DATA"),
    ],
)
def test_what_lies_there_is_named(tmp_path: Path, files: list[str], split: str, words: str):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = look_around(tmp_path, split)
    assert re.search(words, found), found


def test_a_broken_link_in_place_of_a_split_is_named(raw_tree: Path):
    (raw_tree / "val").rename(raw_tree / "elsewhere")
    (raw_tree / "val").symlink_to("/mnt/moved/val")
    with pytest.raises(IngestError, match="val is a broken link, to /mnt/moved/val; fix or remove it"):
        scan_tree(raw_tree)


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_that_are_all_links_name_the_option(raw_tree: Path, tmp_path: Path, split: str):
    for path in [path for path in (raw_tree / split).rglob("*") if path.is_file()]:
        store = tmp_path / "store" / path.name
        store.parent.mkdir(exist_ok=True)
        path.rename(store)
        path.symlink_to(store)
    with pytest.raises(IngestError, match=rf"{split}/: all \d+ images are links .*--follow-links"):
        scan_tree(raw_tree)
    assert scan_tree(raw_tree, follow_links=True).train.files == 18


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("train/train/cat", r"train/ was unpacked inside train/: move all of train/train/ up to train/"),
        ("train/n00000010/images", "move the images one level up"),
    ],
)
def test_one_level_too_many_is_named(raw_tree: Path, inner: str, words: str):
    (raw_tree / inner).mkdir(parents=True)
    with pytest.raises(IngestError, match=words):
        scan_tree(raw_tree)


def test_paths_in_proposed_commands_are_quoted(tmp_path: Path):
    root = tmp_path / "my data"
    (root / "valid").mkdir(parents=True)
    assert f"ln -s valid '{root}/val'" in look_around(root, "val")
    (root / "my flowers.tar.00").write_bytes(b"")
    assert "cat 'my flowers.tar'.* > 'my flowers.tar'" in look_around(root, "train")


def test_a_link_to_a_folder_that_names_a_split_is_quoted(tmp_path: Path):
    for folder in ("my set_train/a", "my set_val/a"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(IngestError, match="make a link: ln -s 'my set_train' DATA/train"):
        scan_data(tmp_path, Unpacker(tmp_path / "unpacked"))
