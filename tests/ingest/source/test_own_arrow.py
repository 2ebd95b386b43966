"""Images in Parquet: what names the split of a row."""

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
