"""Files as inputs: all of a tree in one fixed order, and nothing in it that can block."""

import os
import random
import socket
import tracemalloc
from pathlib import Path

import pyarrow.fs as pa_fs
import pytest

from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import list_folder, list_store, read_list, read_named, source_text
from convnext_imagenet.serve.inputs.inputs import Names
from convnext_imagenet.serve.inputs.storage import StoredFile, list_files, local_file

from ..test_samples import EXPECTED

TREES = {
    "a slash sorts after a dash and a dot": ["a/b", "a.jpg", "a-b/c", "a0", "a b/x", "A", "a/b-c", "a/b.c/d", "a/b2"],
    "a file where others have a folder": ["a", "a.jpg", "a-b/c", "a0/b"],
    "names that are no UTF-8": ["\udcff/x", "\udcfe", "\u00e9/x", "z", "\udcff.jpg"],
}


def _names(inputs):
    return [inputs.names[number] for number in range(inputs.count)]


def _make(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(os.fsencode(name))
    return root


def _full_listing(root):
    top = os.fsencode(root)
    return sorted(os.path.relpath(at + b"/" + name, top) for at, _, names in os.walk(top) for name in names)


@pytest.mark.parametrize("names", TREES.values(), ids=TREES)
def test_the_order_is_that_of_the_bytes_of_whole_paths(tmp_path, names):
    found = _names(list_folder(_make(tmp_path, names)))
    assert found == _full_listing(tmp_path) == sorted(map(os.fsencode, names))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_random_trees(tmp_path, seed):
    draw = random.Random(seed)
    for _ in range(60):
        path = tmp_path / "/".join("a" + "".join(draw.choices("a.-0 é", k=2)) for _ in range(draw.randint(1, 4)))
        if not any(parent.is_file() for parent in (path, *path.parents)) and not path.is_dir():
            _make(tmp_path, [path.relative_to(tmp_path)])
    found = _names(list_folder(tmp_path))
    assert len(found) > 30
    assert found == _full_listing(tmp_path)


def test_every_visible_file_is_an_input_and_carries_its_own_bytes(folder):
    inputs = list_folder(folder)
    assert [item.source for item in inputs.items(range(inputs.count))] == [source for source, _, _ in EXPECTED]
    assert [source_text(name) for name in _names(inputs)] == [source for source, _, _ in EXPECTED]
    (third, fourth) = inputs.items(range(2, 4))
    assert third.load() == (folder / "b/gray.jpg").read_bytes()
    assert fourth.load() == (folder / "b/named.JPEG").read_bytes()
    assert third.label is None


def test_the_fingerprint_follows_names_and_sizes(folder):
    before = list_folder(folder).sha256
    assert list_folder(folder).sha256 == before
    (folder / ".secret.jpg").unlink()
    assert list_folder(folder).sha256 == before
    (folder / "empty.jpg").write_bytes(b"x")
    grown = list_folder(folder).sha256
    (folder / "empty.jpg").rename(folder / "other.jpg")
    assert len({before, grown, list_folder(folder).sha256}) == 3


def test_linked_folders_are_followed_and_loops_refused(tmp_path, folder):
    root = tmp_path / "links"
    root.mkdir()
    (root / "again").symlink_to(folder)
    (root / "twice").symlink_to(folder)
    assert list_folder(root).count == 2 * len(EXPECTED)
    (root / "loop").symlink_to(root)
    with pytest.raises(ServeError, match="link to a folder above"):
        list_folder(root)


def test_a_link_to_itself_is_an_input_that_cannot_be_read(tmp_path):
    (tmp_path / "self").symlink_to("self")
    (item,) = list_folder(tmp_path).items(range(1))
    with pytest.raises(OSError, match="symbolic links"):
        item.load()


def test_pipes_sockets_and_links_to_them_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    os.mkfifo("pipe.jpg")
    Path("link.jpg").symlink_to("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.jpg")
    Path("a.jpg").write_bytes(b"x")
    Path("null.jpg").symlink_to("/dev/null")
    assert _names(list_folder(tmp_path)) == [b"a.jpg"]


def test_folders_deeper_than_python_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        Path("d").mkdir()
        os.chdir("d")
    Path("x").write_bytes(b"")
    assert _names(list_folder(tmp_path)) == [b"d/" * 1200 + b"x"]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch, error):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).rstrip(b"/").endswith(b"/b"):
            raise error
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ServeError, match=rf"images/b: cannot be listed \({error.strerror}\)"):
        list_folder(folder)


def test_a_store_is_listed_and_read_as_a_folder_is(tmp_path):
    names = ["a/b", "a.jpg", "a-b/c", ".hidden/x", "a/.secret", "large"]
    _make(tmp_path / "bucket", names)
    with (tmp_path / "bucket" / "large").open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    bucket = StoredFile("bucket", pa_fs.SubTreeFileSystem(str(tmp_path), pa_fs.LocalFileSystem()), "s3://bucket")
    inputs = list_store(bucket, list_files(bucket))
    assert _names(inputs) == _names(list_folder(tmp_path / "bucket")) == [b"a-b/c", b"a.jpg", b"a/b", b"large"]
    assert inputs.sha256 == list_folder(tmp_path / "bucket").sha256
    items = list(inputs.items(range(4)))
    assert [item.load() for item in items[:3]] == [b"a-b/c", b"a.jpg", b"a/b"]
    with pytest.raises(BadImage, match="too_large"):
        items[3].load()
    (tmp_path / "bucket" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        items[1].load()
    assert not inputs.is_inside(tmp_path / "bucket")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"x\r\n\r\n\n y z \nmissing", [b"x", b" y z ", b"missing"]),
        (b"x\nx\nx\n", [b"x", b"x", b"x"]),
        (b"\xef\xbb\xbfx\r\ny\r\n", [b"x", b"y"]),
        (b"z\n\xff.jpg\na", [b"z", b"\xff.jpg", b"a"]),
        (b"y" * 4096, [b"y" * 4096]),
    ],
)
def test_a_list_names_one_path_a_line_in_its_own_order(tmp_path, text, names):
    (tmp_path / "list.txt").write_bytes(text)
    assert _names(read_list(local_file(tmp_path / "list.txt"))) == names


def test_paths_of_a_list_begin_at_its_folder_and_may_be_missing(tmp_path):
    _make(tmp_path, ["lists/a", "other/b"])
    (tmp_path / "lists" / "l.txt").write_text(f"a\n../other/b\n{tmp_path}/lists/a\nmissing\n")
    inputs = read_list(local_file(tmp_path / "lists" / "l.txt"))
    *found, missing = inputs.items(range(4))
    assert [item.load() for item in found] == [b"lists/a", b"other/b", b"lists/a"]
    with pytest.raises(FileNotFoundError):
        missing.load()
    assert not inputs.is_inside(tmp_path / "lists" / "out"), "nothing beside a list becomes an input"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"a\nb\0c\n", "line 2 is not a path"),
        (b"a\n" + b"x" * 4097, "line 2 is not a path"),
        (random.Random(0).randbytes(5000), r"line \d+ is not a path"),
        ("a\nb".encode("utf-16"), "line 1 is not a path"),
        (b"\r\n\n", "holds no files"),
        (b"", "holds no files"),
    ],
)
def test_a_file_that_is_no_list_is_refused(tmp_path, text, says):
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(ServeError, match=says):
        read_list(local_file(tmp_path / "list.txt"))


def test_a_folder_without_visible_files_is_refused(tmp_path):
    (tmp_path / ".hidden").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServeError, match="holds no files"):
        list_folder(tmp_path)


def test_names_cost_their_bytes_and_little_more():
    tracemalloc.start()
    names = Names()
    for number in range(200_000):
        names.append(b"n01440764/n01440764_%06d.JPEG" % number)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(names) == 200_000
    assert names[123_456] == b"n01440764/n01440764_123456.JPEG"
    assert peak / len(names) < 1.3 * (31 + 8), "a million names in 50 MB"
    for number in (-1, 200_000):
        with pytest.raises(IndexError):
            names[number]


def test_another_size_of_a_listed_file_is_another_set(tmp_path):
    _make(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "l.txt").write_text("a.jpg\nb.jpg\nmissing.jpg\n")
    before = read_list(local_file(tmp_path / "l.txt")).sha256
    assert read_list(local_file(tmp_path / "l.txt")).sha256 == before
    (tmp_path / "b.jpg").write_bytes(b"longer than before")
    assert read_list(local_file(tmp_path / "l.txt")).sha256 != before


@pytest.mark.parametrize("name", [b"/data/a.jpg", b"a//b.jpg"])
def test_a_path_that_a_store_does_not_understand_is_an_error_of_its_row(name):
    store = pa_fs.S3FileSystem(anonymous=True, region="us-east-1")
    with pytest.raises(OSError, match=r"[Pp]ath"):
        read_named("bucket/folder", name, store)
