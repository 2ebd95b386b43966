"""Parquet files are read without pandas, and in the order and with the errors that callers count on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base.parquet import equals, numbers, read_table

TABLE = pa.table({"split": ["train", "val", "train"], "label": pa.array([2, 0, 1], pa.int32()), "key": ["a", "b", "c"]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "year=2026"  # a data set would make it a column
    folder.mkdir()
    pq.write_table(TABLE, folder / "rows.parquet")
    return folder / "rows.parquet"


def test_columns_come_in_the_order_of_the_call(path: Path) -> None:
    assert read_table(path).equals(TABLE)
    assert read_table(path, ["key", "label"]).equals(TABLE.select(["key", "label"]))
    assert read_table(pa.BufferReader(path.read_bytes()), ["key"]).column_names == ["key"]


def test_what_cannot_be_read_is_an_error(path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid, match="no column 'absent'"):
        read_table(path, ["key", "absent"])
    with pytest.raises(FileNotFoundError):
        read_table(path.with_name("absent"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(pa.ArrowInvalid):
        read_table(path)


@pytest.mark.parametrize(("text", "rows"), [("train", [0, 2]), ("val", [1]), ("test", [])])
def test_rows_of_a_split(text: str, rows: list[int]) -> None:
    split = pa.chunked_array([TABLE["split"].chunk(0).slice(0, 2), TABLE["split"].chunk(0).slice(2)])
    assert np.flatnonzero(equals(split, text).to_numpy()).tolist() == rows


def test_numbers_keep_their_type() -> None:
    chunks = pa.chunked_array([pa.array([2], pa.int32()), pa.array([0, 1], pa.int32())])
    found = numbers(chunks)
    assert (found.dtype, found.tolist()) == (np.int32, [2, 0, 1])


def test_none_of_it_imports_pandas(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from convnext_imagenet.base.parquet import *; "
        f"table = read_table(Path({str(path)!r})); numbers(table.filter(equals(table['split'], 'train'))['label']); "
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
