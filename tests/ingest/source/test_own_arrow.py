"""Images in Parquet: what names the split of a row."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.detect import scan_data
from convnext_imagenet.ingest.source.unpack import Unpacker


def splits(root: Path, name: str, words: list[str | None]) -> list[str]:
    """Return the splits that are found for the rows of a file with a column of these words."""
    root.mkdir()
    rows = {"image": [b"x"] * len(words), "label": ["a"] * len(words), "split": words}
    pq.write_table(pa.table(rows), root / name)
    return [sample.split for sample in scan_data(root, Unpacker(root.with_name("unpacked"))).samples]


@pytest.mark.parametrize(
    ("name", "words", "found"),
    [
        ("all.parquet", ["train", "Validation", "test"], ["train", "val", "test"]),
        ("all.parquet", [None, None], ["", ""]),
        ("train.parquet", ["train", "training"], ["train", "train"]),
        ("test.parquet", ["camera 1", None], ["test", "test"]),
    ],
)
def test_a_column_states_the_split_where_the_files_name_does_not(
    name: str, words: list[str | None], found: list[str], tmp_path: Path
):
    assert splits(tmp_path / "data", name, words) == found


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("train.parquet", ["train", "val"], r"row 1 has the split 'val', but the file's name says train; rename"),
        ("all.parquet", ["train", "holdout"], r"row 1 has the split 'holdout', expected train, val or test"),
    ],
)
def test_a_column_that_contradicts_is_refused(name: str, words: list[str | None], message: str, tmp_path: Path):
    with pytest.raises(IngestError, match=message):
        splits(tmp_path / "data", name, words)


def _written(root: Path, labels: list, names: list[str] | None = None) -> Path:
    features = {"label": {"names": names, "_type": "ClassLabel"}} if names else {}
    about = {b"huggingface": json.dumps({"info": {"features": features}})}
    root.mkdir()
    table = pa.table({"image": [b"x"] * len(labels), "label": labels}).replace_schema_metadata(about)
    pq.write_table(table, root / "all.parquet")
    return root


def test_a_gap_in_a_column_of_numbers_is_no_class(tmp_path: Path):
    tree = scan_data(_written(tmp_path / "data", [0.0, float("nan"), 1.0]), Unpacker(tmp_path / "unpacked"))
    assert [sample.label for sample in tree.samples] == ["0.0", "1.0"]
    assert tree.unlabelled.count == 1


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([[0, 1], [1]], None, r"not clear which column holds the class; pass --label-column with one of: none"),
        ([0, 2], ["cat", "dog", "cat"], r"its schema names the class cat twice; give each class a name"),
    ],
)
def test_labels_that_are_no_single_class_are_refused(
    labels: list, names: list[str] | None, message: str, tmp_path: Path
):
    with pytest.raises(IngestError, match=message):
        scan_data(_written(tmp_path / "data", labels, names), Unpacker(tmp_path / "unpacked"))
