"""RECORDS at a URI for training and evaluation: only what is needed, once for all processes, within a stated size."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from convnext_imagenet.base.errors import ArtefactError, Interrupted
from convnext_imagenet.base.files import read_json
from convnext_imagenet.records import cached
from convnext_imagenet.records.cached import local_records
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.pull import _fetch, pull
from convnext_imagenet.records.push import push
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records

from ..object_store import Store, running_store
from ..records_of import finished_records
from .conftest import WNIDS, make_rows

ROWS = {"train": make_rows(9)[:6], "val": make_rows(9)[6:8], "test": make_rows(9)[8:]}


@pytest.fixture
def store():
    with running_store() as found:
        yield found


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Records of three splits."""
    classes = [ClassEntry(i, wnid, wnid) for i, wnid in enumerate(WNIDS)]
    return finished_records(tmp_path / "whole", ROWS, classes, {})


@pytest.fixture
def uri(whole: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the records lie in a store, as click gives it: one slash behind the scheme."""
    monkeypatch.setenv("CONVNEXT_RECORDS_CACHE", str(tmp_path / "copies"))
    push(whole, store.uri("set"))
    store.requests.clear()
    return Path(store.uri("set"))


def fetched(store: Store) -> Counter:
    """How often each shard was asked for, by its split."""
    return Counter(
        key.split("/")[1]
        for (method, key), count in store.requests.items()
        if method == "GET" and key.endswith(".mindrecord")
        for _ in range(count)
    )


def names_in(copy: Path) -> set[str]:
    return {path.name for path in copy.iterdir() if not path.name.startswith(".")}


def size_of(whole: Path, *splits: str) -> int:
    """The bytes that a copy of these splits fetches."""
    files = [path for split in splits for path in (whole / split).iterdir()]
    beside = [whole / name for name in ("index.parquet", "plan.json", "manifest.json", "_SUCCESS")]
    return sum(path.stat().st_size for path in [*files, *beside])


def test_only_what_is_asked_for_is_fetched_and_is_read_as_the_whole_set(whole, uri, store):
    said: list[str] = []
    copy = local_records(uri, ("val",), said.append)
    assert names_in(copy) == {"val", "index.parquet", "plan.json", "manifest.json", "_SUCCESS"}
    assert fetched(store).keys() == {"val"}
    opened = Records.open(copy)
    assert opened.manifest_sha256 == Records.open(whole).manifest_sha256
    assert [row["image"] for row in opened.split("val").read([1, 0])] == [row.image for row in ROWS["val"][::-1]]
    with pytest.raises(ArtefactError, match="no rows in split 'train'; splits with rows: val"):
        opened.split("train")
    assert verify_records(copy).problems == ()
    before = (copy / "val").stat().st_ino, fetched(store)["val"]
    assert local_records(uri, ("train", "val"), said.append) == copy
    assert ((copy / "val").stat().st_ino, fetched(store)["val"]) == before
    assert len(list(Records.open(copy).split("train").read(range(6)))) == 6
    assert verify_records(copy).rows == 8
    assert local_records(uri, ("train", "val"), said.append) == copy
    assert [line.partition("GiB (")[2].partition(")")[0] for line in said] == ["val", "train"]
    assert not any("hunter2" in line for line in said)


def test_a_directory_is_what_it_is_and_a_split_that_is_not_there_is_named(whole, uri, store):
    assert local_records(whole, ("nothing",), pytest.fail) == whole
    with pytest.raises(ArtefactError, match="no rows in split 'vla'; splits with rows: test, train, val"):
        local_records(uri, ("vla",), pytest.fail)
    assert not fetched(store)


def test_a_copy_that_is_pulled_whole_is_a_whole_one(whole, uri, store):
    copy = local_records(uri, ("val",), lambda line: None)
    pull(store.uri("set"), copy)
    assert names_in(copy) >= {"train", "val", "test", "report.html"}
    assert len(list(Records.open(copy).split("test").read([0]))) == 1
    assert verify_records(copy).rows == 9


def test_the_size_of_the_cache_is_held_to_the_byte(whole, uri, store, monkeypatch):
    needed = size_of(whole, "val")
    monkeypatch.setenv("CONVNEXT_RECORDS_CACHE_GIB", repr((needed - 1) / 2**30))
    with pytest.raises(ArtefactError, match="GiB are to be fetched, but the cache may hold"):
        local_records(uri, ("val",), pytest.fail)
    assert not fetched(store)
    monkeypatch.setenv("CONVNEXT_RECORDS_CACHE_GIB", repr(needed / 2**30))
    copy = local_records(uri, ("val",), lambda line: None)
    with pytest.raises(ArtefactError, match=rf"delete what it holds: {copy}"):
        local_records(uri, ("val", "test"), pytest.fail)
    assert fetched(store).keys() == {"val"}
    assert local_records(uri, ("val",), pytest.fail) == copy


def test_a_disk_without_room_is_said_before_anything_is_fetched(uri, store, monkeypatch):
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ArtefactError, match="GiB free; name another folder by CONVNEXT_RECORDS_CACHE"):
        local_records(uri, ("val",), pytest.fail)
    assert not fetched(store)


def test_what_changes_meanwhile_is_refused_and_not_marked(whole, uri, store, tmp_path, monkeypatch):
    other = store.objects["set/manifest.json"].replace(b'"seed": 0', b'"seed": 1')
    marked = {"manifest_sha256": hashlib.sha256(other).hexdigest()}

    def change() -> None:
        store.objects |= {"set/manifest.json": other, "set/_SUCCESS": json.dumps(marked).encode()}

    refuse = cached._refuse_too_much
    monkeypatch.setattr(cached, "_refuse_too_much", lambda *values: (refuse(*values), change()))
    with pytest.raises(ArtefactError, match="changed while it was pulled; run the same command again"):
        local_records(uri, ("val",), lambda line: None)
    assert not list((tmp_path / "copies").glob("*/_SUCCESS"))


def test_a_fetch_that_was_killed_is_resumed_and_its_rest_does_not_count(whole, uri, store, monkeypatch):
    def fetch_or_die(place, name, *rest):
        if name.endswith(".parquet") and name.startswith("val/"):
            raise Interrupted("killed")
        return _fetch(place, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("convnext_imagenet.records.pull._fetch", fetch_or_die)
        with pytest.raises(Interrupted):
            local_records(uri, ("val",), lambda line: None)
    (copy,) = (path for path in Path(os.environ["CONVNEXT_RECORDS_CACHE"]).iterdir() if path.is_dir())
    (copy / ".staging" / "imagenet-val-00000-of-00001.parquet").write_bytes(b"x" * 10**6)
    before = fetched(store)["val"]
    monkeypatch.setenv("CONVNEXT_RECORDS_CACHE_GIB", repr((size_of(whole, "val") + 10_000) / 2**30))
    assert local_records(uri, ("val",), lambda line: None) == copy
    assert fetched(store)["val"] == before == 1
    assert verify_records(copy).problems == ()


def test_processes_that_start_together_share_one_fetch(whole, uri, store):
    """As ranks do, and two runs at once."""
    store.faults.delay_s = 0.05
    program = (
        "import sys; from pathlib import Path; from convnext_imagenet.records.cached import local_records; "
        "print(local_records(Path(sys.argv[1]), sys.argv[2].split(','), lambda line: print(line, file=sys.stderr)))"
    )
    asked = ("train,val", "train,val", "val,test")
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(uri), splits], stdout=-1, stderr=-1, text=True)
        for splits in asked
    ]
    ended = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    (copy,) = {out.strip() for out, _ in ended}
    assert fetched(store) == {"train": 1, "val": 1, "test": 1}
    assert read_json(Path(copy) / ".splits.json") == ["test", "train", "val"]
    assert verify_records(Path(copy)).rows == 9


def test_a_limit_that_is_no_number_is_called_that(uri, monkeypatch):
    monkeypatch.setenv("CONVNEXT_RECORDS_CACHE_GIB", "much")
    with pytest.raises(ArtefactError, match="must be a number of GiB above 0"):
        local_records(uri, ("val",), pytest.fail)
