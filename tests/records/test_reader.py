"""Reading: rows come in our order, and damage is refused before MindSpore opens a file."""

import json
import resource
import shutil

import mindspore.dataset as ds
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.reader import Records

from .conftest import build_records, make_rows


@pytest.mark.parametrize("order", [[0], [6, 0, 3], [2, 2, 5], list(range(7)), []])
def test_rows_come_in_exactly_our_order(records_root, order):
    split = Records.open(records_root).split("train")
    stored = [*make_rows(7)[0::2], *make_rows(7)[1::2]]
    rows = list(split.read(order, ["key", "image", "label"]))
    assert [row["key"] for row in rows] == [stored[index].key for index in order]
    assert [row["image"] for row in rows] == [stored[index].image for index in order]


def test_two_workers_keep_the_order(records_root):
    split = Records.open(records_root).split("train")
    order = [6, 5, 4, 3, 2, 1, 0]
    found = [int(ids) for (ids,) in split.dataset(order, ["sample_id"], workers=2).create_tuple_iterator()]
    assert found == [row["sample_id"] for row in split.read(order)]


def test_a_row_outside_the_split_is_a_bug(records_root):
    with pytest.raises(ValueError, match=r"outside 0\.\.6"):
        Records.open(records_root).split("train").dataset([7])


@pytest.mark.parametrize("suffix", ["", ".db"])
@pytest.mark.parametrize("damage", ["flip", "shorter", "missing", "empty"])
def test_damage_is_refused(records_root, suffix, damage):
    Records.open(records_root)
    path = next((records_root / "train").glob(f"*.mindrecord{suffix}"))
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "shorter" else b"")
    with pytest.raises(ArtefactError, match=r"imagenet-train-0000[01].*restore"):
        Records.open(records_root)


def test_whole_files_are_hashed_once_and_changed_ones_again(records_root, monkeypatch):
    import convnext_imagenet.base.protocol as artefact

    Records.open(records_root)
    hashed = []
    monkeypatch.setattr(artefact, "sha256_file", lambda path: hashed.append(path.name) or "")
    monkeypatch.setattr("convnext_imagenet.records.reader.read_finished", lambda root, kind: _manifest(root))
    Records.open(records_root)
    assert hashed == []
    shard = next((records_root / "train").glob("*.mindrecord"))
    shard.touch()
    with pytest.raises(ArtefactError, match="content has changed"):
        Records.open(records_root)
    assert hashed == [shard.name]


def _manifest(root):
    return json.loads((root / "manifest.json").read_text())


def test_a_moved_or_linked_directory_works(records_root, tmp_path):
    moved = shutil.move(records_root, tmp_path / "moved")
    (tmp_path / "link").symlink_to(moved)
    assert len(list(Records.open(tmp_path / "link").split("train").read(range(7)))) == 7


def test_unfinished_and_unknown_are_refused(records_root, tmp_path):
    with pytest.raises(ArtefactError, match="no rows in split 'val'; splits with rows: train"):
        Records.open(records_root).split("val")
    (records_root / "_SUCCESS").unlink()
    with pytest.raises(ArtefactError, match="unfinished"):
        Records.open(records_root)


def test_another_schema_version_is_refused(tmp_path, monkeypatch):
    root = build_records(tmp_path / "records", make_rows(4))
    monkeypatch.setattr("convnext_imagenet.records.manifest.SCHEMA_VERSION", 2)
    with pytest.raises(ArtefactError, match="schema version 1, but this program reads 2"):
        Records.open(root)


@pytest.mark.parametrize(
    ("soft", "hard", "raised_to"),
    [(64, 4096, 262), (64, resource.RLIM_INFINITY, 262), (262, 262, None), (resource.RLIM_INFINITY,) * 2 + (None,)],
)
def test_limit_of_open_files_is_raised_as_far_as_needed(records_root, monkeypatch, soft, hard, raised_to):
    """Two shards, each open once and once more for each of two workers, and 256 to spare."""
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    Records.open(records_root).split("train").dataset([0], workers=2)
    assert limits == ([] if raised_to is None else [(raised_to, hard)])


def test_too_few_open_files_are_refused_before_mindspore_opens_one(records_root, monkeypatch):
    split = Records.open(records_root).split("train")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (64, 261))
    monkeypatch.setattr(ds, "MindDataset", lambda *_, **__: pytest.fail("MindSpore was given the files"))
    with pytest.raises(
        ArtefactError, match=r"262 open files needed, but the hard limit is 261; .*`ulimit -Hn 262` as root"
    ):
        split.dataset([0], workers=2)
