"""What the manifest takes from the receipts of shards."""

from pathlib import Path

from convnext_imagenet.records.manifest import ShardEntry
from convnext_imagenet.records.receipts import shard_facts, shard_files, split_entry

BAD = {"split": "train", "key": "k", "path": "train/k.JPEG", "label": 1, "reason": "empty", "detail": "no bytes"}


def _receipt(name: str, facts: dict, is_empty: bool = False) -> dict:
    files = [] if is_empty else [path.name for path in shard_files(Path(f"{name}.mindrecord"))]
    listed = [{"name": file, "bytes": n, "sha256": str(n)} for n, file in enumerate(files)]
    return {"unit": name, "plan_id": "p", "files": listed, "facts": facts}


def test_files_of_a_shard_are_the_shard_its_index_and_its_table():
    files = shard_files(Path("out") / "train" / "a.mindrecord")
    assert [str(path) for path in files] == [
        "out/train/a.mindrecord",
        "out/train/a.mindrecord.db",
        "out/train/a.parquet",
    ]


def test_facts_count_the_stored_images_by_class():
    assert shard_facts([2, 0, 2, 10], [BAD], reencoded=3) == {
        "rows": 4,
        "rows_per_class": {"0": 1, "2": 2, "10": 1},
        "quarantined": [BAD],
        "reencoded": 3,
    }


def test_a_split_adds_up_its_shards_and_names_those_that_hold_rows():
    receipts = [
        _receipt("a", shard_facts([0, 2, 2], [BAD])),
        _receipt("b", shard_facts([], [BAD, BAD]), is_empty=True),
        _receipt("c", shard_facts([2, 1])),
    ]
    entry = split_entry(receipts, classes=4)
    assert (entry.rows, entry.rows_per_class, entry.quarantined) == (5, (1, 1, 3, 0), 3)
    assert entry.shards == (
        ShardEntry("a.mindrecord", 3, 0, "0", 1, "1"),
        ShardEntry("c.mindrecord", 2, 0, "0", 1, "1"),
    )
