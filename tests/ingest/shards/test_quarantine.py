"""How many bad images are allowed, and the table that lists them."""

import io
import itertools
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from convnext_imagenet.ingest.errors import IngestError, QuarantineError
from convnext_imagenet.ingest.shards.quarantine import allowed_number, refuse_none_stored, refuse_too_many
from convnext_imagenet.records.quarantine import Quarantined, table_bytes

BAD = [
    Quarantined("val", "b", "val/b.JPEG", 1, "empty", "the file has no bytes"),
    Quarantined("train", "c", "train/x/c.JPEG", 0, "damaged", "OpenCV"),
    Quarantined("train", "a", "train/x/a.JPEG", 0, "truncated", "no end"),
]


@pytest.mark.parametrize(
    ("option", "rule", "images", "expected"),
    [
        (None, "all", 1_331_167, 0),
        (None, "found", 10, 1),
        (None, "found", 299, 2),
        (None, "file", 13_394, 133),
        (0, "found", 13_394, 0),
        (7, "all", 1_331_167, 7),
    ],
)
def test_allowed_number(option: int | None, rule: str, images: int, expected: int):
    assert allowed_number(option, rule, images) == expected


def test_table_is_sorted_and_the_same_for_any_order_of_arrival():
    tables = {table_bytes(order) for order in itertools.permutations(BAD)}
    assert len(tables) == 1
    rows = pq.read_table(io.BytesIO(tables.pop())).to_pylist()
    assert [(row["split"], row["key"]) for row in rows] == [("train", "a"), ("train", "c"), ("val", "b")]
    assert rows[2] == {
        "split": "val",
        "key": "b",
        "path": "val/b.JPEG",
        "label": 1,
        "reason": "empty",
        "detail": "the file has no bytes",
    }


def test_empty_table_keeps_its_columns():
    table = pq.read_table(io.BytesIO(table_bytes([])))
    assert table.num_rows == 0
    assert table.column_names == ["split", "key", "path", "label", "reason", "detail"]


def test_as_many_as_allowed_pass():
    refuse_too_many(BAD, 3, Path("records"))


@pytest.mark.parametrize(("kind", "is_named"), [("AVIF", True), ("HEIC", False)])
def test_kinds_that_can_be_converted_are_told_of_the_option(kind: str, is_named: bool):
    entry = Quarantined("val", "b", "val/b.JPEG", 1, "unsupported", f"{kind}, neither JPEG, PNG nor WebP")
    with pytest.raises(QuarantineError) as caught:
        refuse_too_many([entry], 0, Path("records"))
    assert ("--convert stores BMP, GIF, TIFF and AVIF" in str(caught.value)) == is_named


def test_a_split_without_a_stored_image_is_refused_with_the_reason_of_one():
    entry = Quarantined("val", "b", "val/b.jpg", 1, "unsupported", "GIF, neither JPEG, PNG nor WebP")
    with pytest.raises(IngestError, match=r"val/: no image can be stored.* val/b\.jpg \(unsupported: GIF.*--convert"):
        refuse_none_stored("val", [entry])


def test_more_than_allowed_are_refused_with_the_option_to_pass():
    with pytest.raises(QuarantineError) as caught:
        refuse_too_many(BAD, 2, Path("records"))
    message = str(caught.value)
    assert "too many bad images: 3 in quarantine, 2 allowed" in message
    assert "train/x/a.JPEG (truncated)" in message
    assert "--max-quarantine 3" in message
    assert "records/quarantine.parquet" in message
    assert caught.value.exit_code == 3
