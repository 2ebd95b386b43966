"""What an IMAGES argument means: one table of what is found and what it stands for."""

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.records.errors import RecordsError
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.input_kinds import open_inputs

from .conftest import build_records, class_table, picture

WNIDS = [wnid for wnid, _ in class_table(7)]


def _tar(path, count):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One of everything that may be scored, and of much that may not."""
    root = tmp_path_factory.mktemp("kinds")
    for name in ("images/a.jpg", "images/sub/b.jpg", "photo.jpg", "archive.tar.gz", "mixed/a.txt", "plan/a.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "plan" / "plan.json").write_text('{"kind": "run"}')
    (root / "list.txt").write_text("images/a.jpg\nphoto.jpg\nmissing\n")
    (root / "LIST.LST").write_text("photo.jpg\n")
    _tar(root / "one.tar", 2)
    for name, count in (("tars/b.tar", 1), ("tars/a.TAR", 2), ("mixed/a.tar", 2)):
        _tar(root / name, count)
    (root / "tars" / ".DS_Store").write_bytes(b"x")
    (root / "folder.tar").mkdir()
    (root / "folder.tar" / "a.jpg").write_bytes(b"x")
    (root / "inside").mkdir()
    (root / "inside" / "x.tar").mkdir()
    (root / "inside" / "x.tar" / "a.jpg").write_bytes(b"x")
    (root / "empty").mkdir()
    (root / "hidden").mkdir()
    (root / "hidden" / ".a.tar").write_bytes(b"x")
    pq.write_table(pa.table({"image": [b"a"] * 4, "mask": [b"a"] * 4}), root / "t.parquet")
    build_records(root / "records", [picture(seed) for seed in range(5)], [0] * 5)
    return root


@pytest.mark.parametrize(
    ("images", "options", "kind", "count"),
    [
        ("images", {}, "Files", 2),
        ("images/", {}, "Files", 2),
        ("mixed", {}, "Files", 2),
        ("folder.tar", {}, "Files", 1),
        ("inside", {}, "Files", 1),
        ("plan", {}, "Files", 2),
        ("list.txt", {}, "Files", 3),
        ("LIST.LST", {}, "Files", 1),
        ("one.tar", {}, "Members", 2),
        ("tars", {}, "Members", 3),
        ("t.parquet", {"column": "mask"}, "Column", 4),
        ("records", {}, "StoredImages", 5),
        ("records", {"split": "val"}, "StoredImages", 5),
    ],
)
def test_what_means_what(place, monkeypatch, images, options, kind, count):
    for argument in (place / images, images):
        monkeypatch.chdir(place)
        inputs = open_inputs(str(argument), WNIDS, **options)
        assert (type(inputs).__name__, inputs.count) == (kind, count)
        assert len(list(inputs.items(range(count)))) == count
        assert len(inputs.sha256) == 64


def test_a_uri_means_a_store(place):
    assert open_inputs((place / "images").as_uri(), WNIDS).sha256 == open_inputs(str(place / "images"), WNIDS).sha256


def test_tars_of_a_folder_come_in_the_order_of_their_names(place):
    sources = [item.source for item in open_inputs(str(place / "tars"), WNIDS).items(range(3))]
    assert sources == ["a.TAR/0.jpg", "a.TAR/1.jpg", "b.tar/0.jpg"]


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        ("missing", ServeError, "no such file or directory"),
        ("missing.tar", ServeError, "no such file or directory"),
        ("photo.jpg", ServeError, r"none of \.tar, .*\.parquet.*convnext-serve infer"),
        ("archive.tar.gz", ServeError, r"none of \.tar"),
        ("empty", ServeError, "no files"),
        ("hidden", ServeError, "no files"),
        ("t.parquet", ServeError, "--column among: image, mask"),
        ("nope://x", ServeError, "cannot be listed"),
    ],
)
def test_what_means_nothing_is_refused(place, images, error, says):
    with pytest.raises(error, match=says):
        open_inputs(images if "://" in images else str(place / images), WNIDS)


def test_a_split_that_records_lack_is_refused(place):
    with pytest.raises(RecordsError, match="splits with rows: val"):
        open_inputs(str(place / "records"), WNIDS, split="test")


def test_a_large_folder_is_not_taken_for_tars_by_looking_at_all_of_it(tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    scandir, looked = os.scandir, []

    class Counted:
        def __init__(self, path):
            self.entries, self.path = scandir(path), path

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.entries.close()

        def __iter__(self):
            for entry in self.entries:
                looked.append(isinstance(self.path, bytes))
                yield entry

    monkeypatch.setattr(os, "scandir", Counted)
    assert open_inputs(str(tmp_path), WNIDS).count == 300
    assert looked.count(False) == 1
