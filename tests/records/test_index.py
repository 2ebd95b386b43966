"""The tables of stored images: one beside each shard, and index.parquet over all."""

import hashlib

import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.index import (
    IndexEntry,
    IndexPart,
    read_columns,
    shard_index_path,
    write_index,
    write_shard_index,
)
from convnext_imagenet.records.manifest import ClassEntry

CLASSES = (ClassEntry(0, "n00000010", "first"), ClassEntry(1, "n00000020", "second"))
ENTRIES = (
    IndexEntry("n00000010_1", 5, 0, 100, 40, 30, "RGB", "a" * 64, 2, b"a picture"),
    IndexEntry("n00000020_1", 3, 1, 200, 50, 60, "L", "b" * 64, 0),
)


def write_both(folder):
    parts = []
    for split, name, entries in (("train", "t.mindrecord", ENTRIES), ("val", "v.mindrecord", ENTRIES[1:])):
        path = shard_index_path(folder / name)
        write_shard_index(path, entries)
        parts.append(IndexPart(split, name, path))
    write_index(folder / "index.parquet", parts, CLASSES)
    return folder / "index.parquet"


def test_rows_stand_in_stored_order_with_wnid_split_and_place(tmp_path):
    rows = pq.read_table(write_both(tmp_path)).to_pylist()
    assert [(row["split"], row["shard"], row["row"], row["key"], row["wnid"]) for row in rows] == [
        ("train", "t.mindrecord", 0, "n00000010_1", "n00000010"),
        ("train", "t.mindrecord", 1, "n00000020_1", "n00000020"),
        ("val", "v.mindrecord", 0, "n00000020_1", "n00000020"),
    ]
    assert rows[0] | ENTRIES[0]._asdict() == rows[0] | {"thumbnail": b"a picture", "small": None}


def test_pictures_stay_beside_the_shard(tmp_path):
    assert "thumbnail" not in pq.read_schema(write_both(tmp_path)).names
    assert read_columns(tmp_path / "t.parquet", ["thumbnail"])["thumbnail"].to_pylist() == [b"a picture", None]


def test_equal_rows_give_equal_bytes_in_any_folder(tmp_path):
    hashes = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        hashes.add(hashlib.sha256(write_both(tmp_path / name).read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_a_missing_or_damaged_table_is_one_line_with_the_way_out(tmp_path):
    with pytest.raises(ArtefactError, match=r"no such file; .*--repair"):
        read_columns(tmp_path / "none.parquet", ["key"])
    path = write_both(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtefactError, match="cannot be read as Parquet") as caught:
        read_columns(path, ["key"])
    assert "\n" not in str(caught.value)
