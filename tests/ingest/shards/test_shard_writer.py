"""One shard: what is good is stored as it was, what is bad is listed, and a shard that lies is not published."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convnext_imagenet.base.protocol import read_receipt
from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.shards.plan import PlannedRow
from convnext_imagenet.ingest.shards.shard_writer import ShardTask, write_unit
from convnext_imagenet.records import shards
from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES

SHARD = "imagenet-train-00000-of-00001.mindrecord"
UNIT = SHARD.removesuffix(".mindrecord")
PLAN_ID = "0" * 64


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[[list[bytes]], ShardTask]:
    """A task for a shard of these files."""

    def make(files: list[bytes]) -> ShardTask:
        rows = []
        (tmp_path / "data").mkdir()
        for number, data in enumerate(files):
            (tmp_path / "data" / f"{number}.JPEG").write_bytes(data)
            rows.append(PlannedRow(10 + number, f"{number}.JPEG", f"key_{number}", number % 2, len(data)))
        return ShardTask(
            data=tmp_path / "data",
            folder=tmp_path / "out" / "train",
            staging=tmp_path / "out" / ".staging" / UNIT,
            plan_id=PLAN_ID,
            split="train",
            shard=SHARD,
            rows=rows,
            largest_row_bytes=max(map(len, files)),
            largest_shard_bytes=sum(map(len, files)),
        )

    return make


def _write(task: ShardTask) -> dict:
    done: list[int] = []
    write_unit(task, done.append)
    assert sum(done) == len(task.rows)
    receipt = read_receipt(task.folder, UNIT, PLAN_ID, deep=True)
    assert receipt is not None
    return receipt


def test_good_images_are_stored_byte_for_byte(pieces, make_task):
    files = [pieces.jpeg(seed, size_px=16 + seed) for seed in range(5)]
    task = make_task(files)
    receipt = _write(task)
    rows = list(shards.read_back(task.folder / SHARD))
    assert [row.image for row in rows] == files
    assert [(row.sample_id, row.key, row.label) for row in rows] == [(10 + n, f"key_{n}", n % 2) for n in range(5)]
    assert [(row.height, row.width) for row in rows] == [(16 + n, 16 + n) for n in range(5)]
    assert receipt["facts"] == {"rows": 5, "rows_per_class": {"0": 3, "1": 2}, "quarantined": [], "reencoded": 0}
    assert [file["name"] for file in receipt["files"]] == [SHARD, f"{SHARD}.db", f"{UNIT}.parquet"]
    assert list(task.staging.parent.iterdir()) == []


def test_zero_bytes_at_the_end_of_a_file_are_kept(pieces, make_task):
    padded = pieces.jpeg(1) + b"\0" * 9
    task = make_task([padded])
    _write(task)
    assert next(shards.read_back(task.folder / SHARD)).image == padded


def test_bad_images_are_listed_with_their_reasons(pieces, make_task):
    whole = pieces.jpeg(1, size_px=64)
    receipt = _write(make_task([whole[:-10], whole, b"", b"<html>", whole]))
    assert receipt["facts"]["rows"] == 2
    assert receipt["facts"]["rows_per_class"] == {"0": 1, "1": 1}
    bad = receipt["facts"]["quarantined"]
    assert [(entry["path"], entry["reason"]) for entry in bad] == [
        ("0.JPEG", "truncated"),
        ("2.JPEG", "empty"),
        ("3.JPEG", "unsupported"),
    ]
    assert bad[1] == {
        "split": "train",
        "key": "key_2",
        "path": "2.JPEG",
        "label": 0,
        "reason": "empty",
        "detail": "the file has no bytes",
    }


def test_shard_of_bad_images_alone_has_a_receipt_and_no_file(make_task):
    task = make_task([b"", b"x"])
    receipt = _write(task)
    assert (receipt["files"], receipt["facts"]["rows"]) == ([], 0)
    assert [path.name for path in task.folder.iterdir()] == [f"{UNIT}.json"]


def test_attempts_are_staged_apart_and_the_title_says_between_which_images_they_are(pieces, make_task):
    task = make_task([pieces.jpeg(1), pieces.jpeg(2)])
    again = task.attempt(1)
    assert again.staging != task.staging
    assert again.staging.parent == task.staging.parent
    assert (again.rows, again.folder) == (task.rows, task.folder)
    assert task.title == f"{task.shard} ({task.rows[0].path} to {task.rows[-1].path})"
    assert task.rows[0].path != task.rows[-1].path


def test_oversized_file_is_not_read(pieces, make_task):
    task = make_task([pieces.jpeg(1)])
    with (task.data / "0.JPEG").open("r+b") as file:
        file.truncate(LARGEST_FILE_BYTES + 1)
    rows = [task.rows[0]._replace(size=LARGEST_FILE_BYTES + 1)]
    receipt = _write(ShardTask(**{**vars(task), "rows": rows}))
    assert [entry["reason"] for entry in receipt["facts"]["quarantined"]] == ["too_large"]


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"x"), lambda path: path.open("ab").write(b"x")])
def test_file_that_changed_since_the_plan_stops_the_ingest(pieces, make_task, change):
    task = make_task([pieces.jpeg(1), pieces.jpeg(2)])
    change(task.data / "1.JPEG")
    with pytest.raises(IngestError, match=r"1\.JPEG: changed during the ingest"):
        write_unit(task, lambda count: None)
    assert not task.folder.exists()


def test_file_that_vanished_stops_the_ingest(pieces, make_task):
    task = make_task([pieces.jpeg(1), pieces.jpeg(2)])
    (task.data / "0.JPEG").unlink()
    with pytest.raises(IngestError, match=r"0\.JPEG: cannot be read \(No such file"):
        write_unit(task, lambda count: None)


def test_shard_that_reads_back_differently_is_not_published(pieces, make_task, monkeypatch):
    task = make_task([pieces.jpeg(1), pieces.jpeg(2)])
    write = shards.write_shard
    monkeypatch.setattr(shards, "write_shard", lambda path, rows, layout: write(path, list(rows)[:1], layout))
    with pytest.raises(IngestError, match="row 1 reads back as nothing, but key_1"):
        write_unit(task, lambda count: None)
    assert not task.folder.exists()


def test_leftovers_of_a_killed_worker_do_not_disturb(pieces, make_task):
    task = make_task([pieces.jpeg(1)])
    task.staging.mkdir(parents=True)
    (task.staging / SHARD).write_bytes(b"half")
    assert _write(task)["facts"]["rows"] == 1


def test_receipt_holds_no_time_and_no_place(pieces, make_task, tmp_path: Path):
    task = make_task([pieces.jpeg(1), b""])
    _write(task)
    text = (task.folder / f"{UNIT}.json").read_text()
    assert str(tmp_path) not in text
    assert sorted(json.loads(text)) == ["facts", "files", "plan_id", "unit"]
