"""URIs in lists and columns are read where they point, or refused at the start, and their secrets are never shown."""

import os
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base import uris
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.files import read_list
from convnext_imagenet.serve.inputs.kinds import open_inputs
from convnext_imagenet.serve.inputs.storage import local_file
from convnext_imagenet.serve.inputs.tables import open_table
from convnext_imagenet.serve.inputs.uris import _open_base, check_uri, read_uri

from ...object_store import running_store


@pytest.fixture(scope="module")
def store():
    with running_store() as running:
        running.objects |= {"a b/x y.jpg": b"space", "100%.jpg": b"percent", "h#1.jpg": b"hash", "cut.jpg": b"c" * 9000}
        yield running


def test_a_list_of_uris_is_read_where_they_point(store, tmp_path):
    (tmp_path / "with space.jpg").write_bytes(b"local")
    uris_and_bytes = {
        store.uri("a b/x y.jpg"): b"space",
        store.uri("a%20b/x%20y.jpg"): b"space",
        store.uri("100%.jpg"): b"percent",
        store.uri("h#1.jpg"): b"hash",
        store.url("a b/x y.jpg"): b"space",
        store.url("a%20b/x%20y.jpg"): b"space",
        (tmp_path / "with space.jpg").as_uri(): b"local",
        f"file://{tmp_path}/with space.jpg": b"local",
        f"file:{tmp_path}/with%20space.jpg": b"local",
        store.uri("a b/x y.jpg").replace("s3://", "s3a://"): b"space",
        "with space.jpg": b"local",
    }
    (tmp_path / "list.txt").write_text("\n".join(uris_and_bytes))
    pq.write_table(pa.table({"path": list(uris_and_bytes)}), tmp_path / "t.parquet")
    for inputs in (read_list(local_file(tmp_path / "list.txt")), open_table(local_file(tmp_path / "t.parquet"))):
        items = list(inputs.items(range(inputs.count)))
        assert [item.load() for item in items] == list(uris_and_bytes.values())
        assert not any("secret" in item.source for item in items)
        assert items[0].source.startswith("s3://pics/a b/x y.jpg")


def test_other_secrets_are_the_same_set_of_inputs(store, tmp_path):
    for name, credentials in (("a", "key:secret"), ("b", "other:secret2")):
        (tmp_path / f"{name}.txt").write_text(store.uri("h#1.jpg", credentials))
    first, second = (read_list(local_file(tmp_path / f"{name}.txt")).sha256 for name in "ab")
    assert first == second


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ({}, FileNotFoundError, "HTTP status 404"),
        ({"refused": {"missing.jpg": 1}}, OSError, "HTTP status 503"),
        ({"cut": {"cut.jpg": 1}}, OSError, "the connection ended after 4500 of 9000 bytes"),
    ],
)
def test_a_web_server_that_fails_is_an_error_of_the_row(store, fault, error, says):
    for name, counts in fault.items():
        setattr(store.faults, name, dict(counts))
    with pytest.raises(error, match=says):
        read_uri(store.url("cut.jpg" if "cut" in fault else "missing.jpg"), lambda path: b"", 1 << 20)


def test_a_web_server_that_is_away_is_an_error_that_may_pass(store):
    with pytest.raises(OSError, match="refused") as caught:
        read_uri("http://127.0.0.1:1/a.jpg", lambda path: b"", 1)
    assert not isinstance(caught.value, FileNotFoundError)


def test_a_connection_to_a_store_that_is_cut_costs_nothing(store, tmp_path):
    store.faults.cut = {"cut.jpg": 2}
    (tmp_path / "list.txt").write_text(store.uri("cut.jpg"))
    (item,) = read_list(local_file(tmp_path / "list.txt")).items(range(1))
    assert item.load() == b"c" * 9000


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("ftp://u:SECRET@h/a.jpg", r"ftp://h/a\.jpg: cannot be read; use a path or a URI of file, http, https, s3"),
        ("file://host/a.jpg", ".*names another machine; use file:///path"),
        ("s3://SECRET:SECRET@b/a?nonsense=1&region=x", r"s3://b/"),
        ("https://[x", None),
    ],
)
def test_what_cannot_be_read_is_refused_at_the_start(tmp_path, uri, says):
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "list.txt").write_text(f"a.jpg\n{uri}\n")
    pq.write_table(pa.table({"path": ["a.jpg", uri]}), tmp_path / "t.parquet")
    for images, where in (("list.txt", r"list\.txt: line 2: "), ("t.parquet", r"t\.parquet: ")):
        if says is None:
            assert open_inputs(str(tmp_path / images), []).count == 2
            continue
        with pytest.raises(ServeError, match=where + says) as caught:
            open_inputs(str(tmp_path / images), [])
        assert "SECRET" not in str(caught.value)


def test_a_store_that_cannot_be_listed_does_not_repeat_credentials():
    for uri in ("nope://KEY:SECRET@b/x", "s3://KEY:SECRET@b/x?nonsense=1&region=x"):
        with pytest.raises(ArtefactError, match="cannot be opened") as caught:
            open_inputs(uri, [])
        assert "SECRET" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    def fail(uri):
        raise ImportError("`fsspec` is required")

    _open_base.cache_clear()
    monkeypatch.setattr(uris, "pa_fs", SimpleNamespace(FileSystem=SimpleNamespace(from_uri=fail)))
    with pytest.raises(ArtefactError, match=r"hf://datasets/: needs pip install 'convnext_imagenet\[hf\]'"):
        check_uri("hf://datasets/x/y")


def test_a_path_that_is_no_text_stays_as_it_is(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff.jpg\n")
    (item,) = read_list(local_file(tmp_path / "list.txt")).items(range(1))
    assert item.source == r"\xff.jpg"
    assert os.fsdecode(b"\xff.jpg") != item.source
