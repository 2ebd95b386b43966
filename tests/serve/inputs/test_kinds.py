"""What an IMAGES argument means: one table of what is found and what it stands for."""

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.kinds import open_inputs

from ...object_store import running_store
from ..conftest import build_records, class_table, picture

WNIDS = [wnid for wnid, _ in class_table(7)]


def _table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array([b"a"] * rows, pa.binary())}), path)


def _tar(path, count, *others):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in (*(f"{number}.jpg" for number in range(count)), *others):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))


@pytest.mark.slow
@pytest.mark.parametrize("images", ["t.parquet", "one.tar", "list.txt", "images"])
def test_a_store_that_fails_is_not_called_a_damaged_file(place, store, monkeypatch, images):
    """Exit code 74, so that a scheduler tries again; and no advice to remove the file."""
    monkeypatch.setattr(store.faults, "is_down", images == "images")
    monkeypatch.setitem(store.faults.cut, images, -1)
    with pytest.raises(FailedError, match=rf"pics/{images}: the store fails \(.*AWS Error.*run the same command again"):
        open_inputs(store.uri(images), WNIDS, column="mask" if images == "t.parquet" else "")


@pytest.fixture(scope="module")
def store(place):
    """The same files in a store."""
    with running_store() as running:
        files = (path for path in place.rglob("*") if path.is_file())
        running.objects |= {str(path.relative_to(place)): path.read_bytes() for path in files}
        yield running


LAYOUTS = ("spark", "hive", "repository", "img2dataset", "webdataset")


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
    (root / "tables").mkdir()
    for name, rows in (("b.parquet", 3), ("a.parquet", 2)):
        pq.write_table(
            pa.table({"image": [name.encode() + b"%d" % row for row in range(rows)]}), root / "tables" / name
        )
    (root / "packed").mkdir()
    _tar(root / "packed" / "a.tar", 2)
    pq.write_table(pa.table({"image": [b"a"]}), root / "packed" / "t.parquet")
    _table(root / "spark" / "part-00000-a.snappy.parquet", 0)
    _table(root / "spark" / "part-00001-a.snappy.parquet", 3)
    for name in ("_SUCCESS", "_committed_1", ".part-00001.crc"):
        (root / "spark" / name).write_bytes(b"")
    _table(root / "hive" / "split=0" / "part-0.parquet", 1)
    _table(root / "hive" / "split=1" / "part-0.parquet", 2)
    _table(root / "repository" / "data" / "test-00000-of-00001.parquet", 1)
    _table(root / "repository" / "data" / "train-00000-of-00001.parquet", 2)
    for name in ("README.md", "LICENSE", ".gitattributes", "dataset_infos.json"):
        (root / "repository" / name).write_bytes(b"x")
    for shard in ("00000", "00001"):
        _tar(root / "img2dataset" / f"{shard}.tar", 2, "0.txt", "0.json", "1.json")
        _table(root / "img2dataset" / f"{shard}.parquet", 2)
        (root / "img2dataset" / f"{shard}_stats.json").write_text("{}")
    for shard in ("train/a.tar", "val/a.tar"):
        _tar(root / "webdataset" / shard, 1, "0.cls", "0.json")
    _table(root / "empties" / "a.parquet", 0)
    _table(root / "predictions" / "part-00000.parquet", 1)
    (root / "predictions" / "_plan.json").write_text('{"kind": "predictions"}')
    build_records(root / "records", [picture(seed) for seed in range(5)], [0] * 5)
    return root


@pytest.mark.parametrize(
    ("images", "options", "kind", "count"),
    [
        ("images", {}, "FileInputs", 2),
        ("images/", {}, "FileInputs", 2),
        ("mixed", {"include": ["*.txt"]}, "FileInputs", 1),
        ("mixed", {"include": ["*.tar"]}, "TarInputs", 2),
        ("mixed", {"exclude": ["*.txt"]}, "TarInputs", 2),
        ("folder.tar", {}, "FileInputs", 1),
        ("inside", {}, "FileInputs", 1),
        ("plan", {}, "FileInputs", 2),
        ("list.txt", {}, "FileInputs", 3),
        ("LIST.LST", {}, "FileInputs", 1),
        ("one.tar", {}, "TarInputs", 2),
        ("tars", {}, "TarInputs", 3),
        ("t.parquet", {"column": "mask"}, "TableInputs", 4),
        ("tables", {}, "JoinedInputs", 5),
        ("packed", {"include": ["*.tar"]}, "TarInputs", 2),
        ("packed", {"include": ["*.tar", "1.jpg"]}, "TarInputs", 1),
        ("packed", {"exclude": ["*.tar"]}, "TableInputs", 1),
        ("tars", {"include": ["0.*"], "exclude": ["b.tar"]}, "TarInputs", 1),
        ("one.tar", {"exclude": ["1.jpg"]}, "TarInputs", 1),
        ("images", {"include": ["sub/*"]}, "FileInputs", 1),
        ("list.txt", {"exclude": ["images/*", "missing"]}, "FileInputs", 1),
        ("spark", {}, "JoinedInputs", 3),
        ("hive", {}, "JoinedInputs", 3),
        ("hive", {"include": ["split=1/*"]}, "TableInputs", 2),
        ("repository", {}, "JoinedInputs", 3),
        ("img2dataset", {}, "TarInputs", 4),
        ("img2dataset", {"include": ["*.txt"]}, "TarInputs", 2),
        ("webdataset", {}, "TarInputs", 2),
        ("records", {}, "RecordsInputs", 5),
        ("records", {"split": "val"}, "RecordsInputs", 5),
    ],
)
def test_what_means_what(place, monkeypatch, images, options, kind, count):
    for argument in (place / images, images):
        monkeypatch.chdir(place)
        inputs = open_inputs(str(argument), WNIDS, **options)
        assert (type(inputs).__name__, inputs.count) == (kind, count)
        assert len(list(inputs.items(range(count)))) == count
        assert len(inputs.sha256) == 64


def test_a_file_uri_is_the_path(place, tmp_path):
    named = tmp_path / "with space % and \u00e9"
    named.symlink_to(place / "images")
    by_uri, by_path = open_inputs(named.as_uri(), WNIDS), open_inputs(str(place / "images"), WNIDS)
    assert by_uri.sha256 == by_path.sha256
    assert by_uri.is_inside(place / "images" / "out")


@pytest.mark.parametrize("images", ["images", "one.tar", "tars", "tables", "t.parquet", "list.txt", *LAYOUTS])
def test_a_store_holds_all_that_a_folder_holds(place, store, images):
    column = "mask" if images == "t.parquet" else ""
    inputs = open_inputs(store.uri(images), WNIDS, column=column)
    same = open_inputs(str(place / images), WNIDS, column=column)
    assert type(inputs) is type(same)
    assert [item.source for item in inputs.items(range(inputs.count))] == [
        item.source for item in same.items(range(same.count))
    ]
    assert _loaded(inputs) == _loaded(same)
    assert inputs.sha256 == same.sha256 or images == "list.txt"  # listed files of a store are not asked for their sizes


def _loaded(inputs):
    found = []
    for item in inputs.items(range(inputs.count)):
        try:
            found.append(item.load())
        except FileNotFoundError:
            found.append(None)
    return found


def test_tables_of_a_folder_follow_each_other_and_ranges_cross_them(place):
    inputs = open_inputs(str(place / "tables"), WNIDS)
    everything = [item.load() for item in inputs.items(range(5))]
    assert everything == [b"a.parquet0", b"a.parquet1", b"b.parquet0", b"b.parquet1", b"b.parquet2"]
    for first in range(6):
        for last in range(first, 6):
            assert [item.load() for item in inputs.items(range(first, last))] == everything[first:last]
    assert [item.source for item in inputs.items(range(1, 3))] == ["a.parquet#1", "b.parquet#0"]


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
        ("t.parquet", ServeError, "--column with one of: image, mask"),
        (
            "mixed",
            ServeError,
            r"a mixture of files \(1 \.tar, 1 \.txt\); choose which to score by --include '\*\.tar'$",
        ),
        ("mixed/*.tar", ServeError, r"\*\.tar: no such file or directory; give the folder, .*--include '\*\.tar'"),
        ("mixed/{0..1}.tar", ServeError, r"give the folder, and choose its files by --include"),
        ("packed", ServeError, r"a mixture of files \(1 \.tar, 1 \.parquet\)"),
        ("empties", ServeError, "holds no rows to predict"),
        ("predictions", ServeError, "name images and hold none; .*--column source"),
        ("nope://x", ArtefactError, "cannot be opened .no store has the scheme 'nope'"),
        ("https://u:p@host/x.jpg", ServeError, r"https://host/x\.jpg: a web address .* a list \(.txt\)"),
        (
            "s3://[x",
            ArtefactError,
            "the address cannot be parsed",
        ),
        ("://", ServeError, "no such file or directory"),
        ("file:///no/such/folder", ServeError, "no such file or directory"),
    ],
)
def test_what_means_nothing_is_refused(place, images, error, says):
    with pytest.raises(error, match=says):
        open_inputs(images if "://" in images else str(place / images), WNIDS)


@pytest.mark.parametrize("images", ["tars", "tables"])
def test_results_inside_a_folder_of_tars_or_tables_would_change_what_it_means(place, images):
    inputs = open_inputs(str(place / images), WNIDS)
    assert inputs.is_inside(place / images / "out")
    assert not inputs.is_inside(place / "out")


def test_a_column_of_what_is_no_table_is_refused(place):
    with pytest.raises(ServeError, match="not a table, so --column 'image' has nothing to choose"):
        open_inputs(str(place / "images"), WNIDS, column="image")


def test_sources_tell_files_of_the_same_name_in_other_folders_apart(place):
    for images, expected in (
        ("hive", ["split=0/part-0.parquet#0", "split=1/part-0.parquet#0", "split=1/part-0.parquet#1"]),
        ("webdataset", ["train/a.tar/0.jpg", "val/a.tar/0.jpg"]),
    ):
        inputs = open_inputs(str(place / images), WNIDS)
        assert [item.source for item in inputs.items(range(inputs.count))] == expected


@pytest.mark.parametrize(
    ("images", "options"),
    [("records", {"include": ["*.jpg"]}), ("tables", {"include": ["*.jpg"]}), ("t.parquet", {"include": ["t*"]})],
)
def test_a_pattern_without_anything_to_choose_is_refused(place, images, options):
    with pytest.raises(ServeError, match="has nothing to choose here; leave it out"):
        open_inputs(str(place / images), WNIDS, **options)


def test_what_is_left_out_is_counted(place, caplog):
    caplog.set_level("INFO", "convnext_imagenet")
    open_inputs(str(place / "img2dataset"), WNIDS)
    assert "img2dataset: 6 members left out" in caplog.text
    open_inputs(str(place / "images"), WNIDS, exclude=["a.jpg"])
    assert "images: 1 file left out by --exclude 'a.jpg'" in caplog.text
    with pytest.raises(ServeError, match=r"no files to predict that --include '\*\.png' chooses"):
        open_inputs(str(place / "images"), WNIDS, include=["*.png"])


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(ServeError, match="not a regular file"):
        open_inputs(str(tmp_path / "list.txt"), WNIDS)


def test_a_split_that_records_lack_is_refused(place):
    with pytest.raises(ArtefactError, match="splits with rows: val"):
        open_inputs(str(place / "records"), WNIDS, split="test")


def test_a_large_folder_is_listed_once(tmp_path, monkeypatch):
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
    assert len(looked) == 300
