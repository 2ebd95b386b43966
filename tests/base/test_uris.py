"""What is shown of a URI, and which store it means."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as pa_fs
import pytest

from convnext_imagenet.base import uris
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.schemes import is_uri
from convnext_imagenet.base.uris import one_line, open_store, public_place, public_uri


@pytest.mark.parametrize(
    ("uri", "shown", "place"),
    [
        ("s3://KEY:SECRET@b/a.jpg", "s3://b/a.jpg", "s3://b/a.jpg"),
        ("s3://k:s@b/x/?a=b", "s3://b/x/?a=b", "s3://b/x"),
        ("s3://b/a%20b.jpg", "s3://b/a%20b.jpg", "s3://b/a%20b.jpg"),
        ("gs://token@b/x", "gs://b/x", "gs://b/x"),
        ("https://u:p@h:8/a?id=3&X-Amz-Signature=ab&sig=c&access_token=d", "https://h:8/a?id=3", "https://h:8/a"),
        ("https://h/a?id=3&page=", "https://h/a?id=3&page=", "https://h/a"),
        ("abfs://container@account/a", "abfs://container@account/a", "abfs://container@account/a"),
        ("abfss://:SECRET@account/a", "abfss://account/a", "abfss://account/a"),
        ("file:///a#b", "file:///a#b", "file:///a%23b"),
        ("file:/a/b", "file:/a/b", "file:///a/b"),
    ],
)
def test_what_is_shown_of_a_uri(uri, shown, place):
    assert is_uri(uri)
    assert public_uri(uri) == shown
    assert public_place(uri) == place


@pytest.mark.parametrize("name", ["a/b.jpg", "/a/b.jpg", "C:/a.jpg", "a b://c", "://x"])
def test_a_path_is_no_uri(name):
    assert not is_uri(name)


def test_a_uri_that_became_a_path_is_one():
    assert is_uri(Path("s3://bucket/records"))
    assert not is_uri(Path("records/s3:/bucket"))


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        (
            "ftp://u:SECRET@h/a",
            r"ftp://h/a: cannot be opened \(no store has the scheme 'ftp'\); use a path or ",
        ),
        ("s3://[SECRET", r"s3://...: the address cannot be parsed"),
        ("s3://SECRET:SECRET@b/a?nonsense=1&region=x", r"s3://b/a\?nonsense=1&region=x: cannot be opened \(Unexpected"),
    ],
)
def test_an_address_of_no_store_is_refused_without_its_secrets(uri, says):
    with pytest.raises(ArtefactError, match=says) as caught:
        open_store(uri)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("gs://b/x", "gs://b/x?retry_limit_seconds=8"),  # Google's library waits for a quarter of an hour by default
        ("gs://b/x?retry_limit_seconds=900", "gs://b/x?retry_limit_seconds=900"),
        ("s3://b/x y?region=eu", "s3://b/x%20y?region=eu"),
        ("s3a://b/100%", "s3://b/100%25"),
        ("file:/a b", "file:///a%20b"),
    ],
)
def test_what_arrow_is_asked_for(monkeypatch, uri, asked):
    seen = []
    finder = SimpleNamespace(from_uri=lambda uri: (pa_fs.LocalFileSystem(), seen.append(uri) or "b"))
    monkeypatch.setattr(uris, "pa_fs", SimpleNamespace(FileSystem=finder))
    open_store(uri)
    assert seen == [asked]


def test_a_library_that_says_much_is_cut_short():
    assert one_line(OSError("a\n b")) == "a b"
    assert one_line(OSError("x" * 999)) == "x" * 300 + " ..."


@pytest.mark.parametrize(
    ("uri", "words", "shown"),
    [
        ("s3://bucket/x", "could not resolve host: bucket.s3.amazonaws.com", "could not resolve host: bucket.s3"),
        ("s3://key:hunter2@bucket/x", "no region for key:hunter2@bucket", "the address cannot be parsed"),
        ("s3://key:hunter2@bucket/x", "hunter2 is no secret", "the address cannot be parsed"),
        ("s3://key:hunter%32@bucket/x", "hunter2 is no secret", "the address cannot be parsed"),
        ("gs://hunter2@bucket/x", "no rights for hunter2", "the address cannot be parsed"),
        ("s3://key:hunter2@bucket/x", "no route to bucket", "no route to bucket"),
        ("abfss://photos@acc/x", "the container photos does not exist", "the container photos does not exist"),
        ("abfss://photos:hunter2@acc/x", "no rights for photos with hunter2", "the address cannot be parsed"),
    ],
)
def test_a_store_that_cannot_be_opened_says_why_without_a_password(
    uri: str, words: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_uri(_: str) -> None:
        raise OSError(words)

    monkeypatch.setattr(uris.pa_fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    with pytest.raises(ArtefactError) as refused:
        open_store(uri)
    assert shown in str(refused.value)
    assert "hunter2" not in str(refused.value)
