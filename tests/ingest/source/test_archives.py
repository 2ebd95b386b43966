"""The official tars are read in place: same images, same labels, nothing unpacked, nothing but official names."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.archives import OFFICIAL_MD5, check_archives
from convnext_imagenet.ingest.source.layout import official_archives, scan_tree
from convnext_imagenet.ingest.source.scan_types import SplitScan

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
IMAGE = "n00000010_0.JPEG"


def _contents(root: Path, split: SplitScan) -> dict[tuple[str, str], bytes]:
    """Bytes by class and name, read at the offsets that the scan gives."""
    contents = {}
    for folder in split.folders:
        archive = root / folder.path[: folder.path.index(".tar") + 4]
        for name, size, offset in zip(folder.names, folder.sizes, folder.offsets, strict=True):
            contents[folder.class_name, name] = archive.read_bytes()[offset : offset + size]
    return contents


def test_offsets_lead_to_the_bytes_of_each_image(raw_tree: Path, tar_tree: Path):
    tree = scan_tree(tar_tree)
    train = {(path.parent.name, path.name): path.read_bytes() for path in (raw_tree / "train").glob("*/*")}
    val = {("ILSVRC2012_img_val", path.name): path.read_bytes() for path in (raw_tree / "val").iterdir()}
    assert _contents(tar_tree, tree.train) == train
    assert _contents(tar_tree, tree.val) == val
    assert (tree.train.shape, tree.val.shape) == (f"class tars in {TRAIN}", f"flat in {VAL}")
    assert set(tree.val.folders[0].modified_ns) == {(tar_tree / VAL).stat().st_mtime_ns}


def test_folder_of_class_tars_is_read_too(raw_tree: Path, tar_tree: Path):
    (tar_tree / "train").mkdir()
    with tarfile.open(tar_tree / TRAIN) as tar:
        tar.extractall(tar_tree / "train", filter="data")
    (tar_tree / TRAIN).unlink()
    tree = scan_tree(tar_tree)
    assert tree.train.shape == "class tars"
    train = {}
    for folder in tree.train.folders:
        data = (tar_tree / folder.path).read_bytes()
        for name, size, offset in zip(folder.names, folder.sizes, folder.offsets, strict=True):
            train[name] = data[offset : offset + size]
    assert train == {path.name: path.read_bytes() for path in (raw_tree / "train").glob("*/*")}


@pytest.mark.parametrize(("unpacked", "shapes"), [("train", ("class folders", f"flat in {VAL}")), ("val", None)])
def test_one_split_may_be_unpacked(raw_tree: Path, tar_tree: Path, unpacked: str, shapes):
    (raw_tree / unpacked).rename(tar_tree / unpacked)
    tree = scan_tree(tar_tree)
    assert (tree.train.shape, tree.val.shape) == (shapes or (f"class tars in {TRAIN}", "flat"))
    assert (tree.train.files, tree.val.files) == (18, 8)


def test_class_tar_without_zeros_at_its_end_is_read(pieces, tar_tree: Path):
    inner = pieces.tar({IMAGE: b"x" * 512})[:1024]
    (tar_tree / TRAIN).write_bytes(pieces.tar({"n00000010.tar": inner}))
    assert scan_tree(tar_tree).train.folders[0].names == (IMAGE,)


def test_folders_and_hidden_files_in_a_tar_are_ignored(tar_tree: Path, pieces):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("./", tarfile.DIRTYPE), ("._n00000010.tar", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        inner = pieces.tar({"._" + IMAGE: b"x", IMAGE: b"y"})
        info = tarfile.TarInfo("n00000010.tar")
        info.size = len(inner)
        tar.addfile(info, io.BytesIO(inner))
    (tar_tree / TRAIN).write_bytes(buffer.getvalue())
    tree = scan_tree(tar_tree)
    assert (tree.train.files, tree.notes.ignored.count) == (1, 3)


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        tar.addfile(info)
    return buffer.getvalue()


HOSTILE = [
    (_member("../n00000010.tar"), r"contains '\.\./n00000010\.tar', expected files named n<8 digits>\.tar"),
    (_member("/etc/n00000010.tar"), "contains '/etc/n00000010.tar'"),
    (_member("n00000010.tar/../../x"), "contains 'n00000010.tar/../../x'"),
    (_member("n00000010.tar\n"), "expected files named"),
    (_member("train/n00000010.tar"), "expected files named"),
    (_member("n00000010.tar", tarfile.SYMTYPE, "/etc/passwd"), r"\(a symbolic link\)"),
    (_member("n00000010.tar", tarfile.LNKTYPE, "../../x"), r"\(a hard link\)"),
    (_member("n00000010.tar", tarfile.CHRTYPE), r"\(a device\)"),
    (_member("n00000010.tar", tarfile.FIFOTYPE), r"\(a pipe\)"),
    (_member("n00000010.tar", b"S"), r"\(a sparse file\)|damaged"),
    (_member("x" * 3000), "expected files named"),
]


@pytest.mark.parametrize(("data", "message"), HOSTILE)
def test_hostile_train_tar_is_refused_and_nothing_is_written(tar_tree: Path, data: bytes, message: str):
    (tar_tree / TRAIN).write_bytes(data)
    before = sorted(tar_tree.parent.rglob("*"))
    with pytest.raises(IngestError, match=message) as caught:
        scan_tree(tar_tree)
    assert "download ILSVRC2012_img_train.tar again" in str(caught.value)
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()
    assert sorted(tar_tree.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["../" + IMAGE, "n00000020_0.JPEG", "n00000010_x.JPEG", IMAGE + "\n", "readme.txt"])
def test_strange_image_in_a_class_tar_is_refused(pieces, tar_tree: Path, name: str):
    (tar_tree / TRAIN).write_bytes(pieces.tar({"n00000010.tar": pieces.tar({name: b"x"})}))
    with pytest.raises(
        IngestError, match=r"train\.tar/n00000010\.tar: contains .*n00000010_<number>\.JPEG; download ILS"
    ):
        scan_tree(tar_tree)


def test_strange_image_in_the_val_tar_is_refused(pieces, tar_tree: Path):
    (tar_tree / VAL).write_bytes(pieces.tar({"n00000010/ILSVRC2012_val_00000001.JPEG": b"x"}))
    with pytest.raises(IngestError, match=r"expected files named ILSVRC2012_val_<8 digits>\.JPEG"):
        scan_tree(tar_tree)


@pytest.mark.parametrize("archive", [TRAIN, VAL])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.6])
def test_truncated_archive_is_refused(tar_tree: Path, archive: str, keep: float):
    path = tar_tree / archive
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(IngestError, match=rf"damaged or truncated .*download {archive} again"):
        scan_tree(tar_tree)


def test_inner_tar_cannot_reach_beyond_its_place(pieces, tar_tree: Path):
    inner = pieces.tar({IMAGE: b"x" * 3000})[:2048]
    (tar_tree / TRAIN).write_bytes(pieces.tar({"n00000010.tar": inner, "n00000020.tar": bytes(10240)}))
    with pytest.raises(IngestError, match=r"n00000010\.tar: damaged or truncated \('n00000010_0\.JPEG' claims 3000"):
        scan_tree(tar_tree)


def test_class_tar_that_is_there_twice_is_refused(tar_tree: Path):
    with tarfile.open(tar_tree / TRAIN, "a") as tar:
        tar.addfile(tarfile.TarInfo("n00000010.tar"))
    with pytest.raises(IngestError, match=r"n00000010\.tar: appears twice"):
        scan_tree(tar_tree)


@pytest.mark.parametrize(("archive", "message"), [(TRAIN, "contains no class tar"), (VAL, "contains no images")])
def test_empty_archive_is_refused(tar_tree: Path, archive: str, message: str):
    (tar_tree / archive).write_bytes(bytes(10240))
    with pytest.raises(IngestError, match=message):
        scan_tree(tar_tree)


def test_flood_of_images_is_refused(pieces, tar_tree: Path, monkeypatch):
    monkeypatch.setattr("convnext_imagenet.ingest.source.archives._MOST_IMAGES", 3)
    with pytest.raises(IngestError, match="contains more than 3 images"):
        scan_tree(tar_tree)


@pytest.mark.parametrize("archive", [TRAIN, VAL])
def test_pipe_in_place_of_an_archive_does_not_block(tar_tree: Path, archive: str):
    (tar_tree / archive).unlink()
    os.mkfifo(tar_tree / archive)
    with pytest.raises(IngestError, match="a pipe, expected a plain file"):
        scan_tree(tar_tree)


def test_archive_elsewhere_is_read_only_when_asked(tar_tree: Path, tmp_path: Path):
    (tar_tree / TRAIN).rename(tmp_path / "train.tar")
    (tar_tree / TRAIN).symlink_to(tmp_path / "train.tar")
    with pytest.raises(IngestError, match="a link out of DATA"):
        scan_tree(tar_tree)
    assert scan_tree(tar_tree, follow_links=True).train.files == 18


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_archives_are_compared_with_the_official_md5(tar_tree: Path, monkeypatch):
    paths = official_archives(tar_tree)
    assert [path.name for path in paths] == list(OFFICIAL_MD5)
    for path in paths:
        monkeypatch.setitem(OFFICIAL_MD5, path.name, _md5(path))
    read: list[int] = []
    check_archives(paths, read.append)
    assert sum(read) == sum(path.stat().st_size for path in paths)
    with (tar_tree / VAL).open("r+b") as file:
        file.write(b"\0")
    with pytest.raises(IngestError, match=rf"{VAL}: its MD5 is {_md5(tar_tree / VAL)}, the official one is"):
        check_archives(paths, read.append)


def test_tree_without_archives_has_nothing_to_check(raw_tree: Path):
    (raw_tree / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(IngestError, match=r"contains no official archive .*leave --check-archives out"):
        official_archives(raw_tree)
