"""Reads Parquet files, chooses rows and hands numbers to NumPy, all without pandas.

Where pandas is installed, PyArrow imports it for `pyarrow.parquet.read_table`, `to_numpy` and every Python value
that it turns into its own; this takes a third of a second (DECISIONS, 2026-11-30). In a process of ours it never does.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.own_process import is_own_process


def read_table(source: Path | pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Return these columns of a Parquet file in this order, or all of them; folders in its path add none.

    Raises OSError, and pa.ArrowException for a file that is not Parquet or lacks a column.
    """
    with pq.ParquetFile(source) as file:
        if columns is None:
            return file.read()
        if missing := [name for name in columns if name not in file.schema_arrow.names]:
            raise pa.ArrowInvalid(f"no column {missing[0]!r}")
        return file.read(columns=list(columns)).select(list(columns))


def equals(column: pa.ChunkedArray, text: str) -> pa.ChunkedArray:
    """Return for each value of a column of strings, none of them null, whether it is `text`."""
    import pyarrow.compute as pc  # it takes as long as the rest of PyArrow

    same = [value for value in pc.unique(column) if value.as_py() == text]
    return pc.equal(column, same[0]) if same else pc.is_null(column)


def numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers, none of them null, of the same type."""
    return np.from_dlpack(column.combine_chunks())


class _WithoutPandas:
    """A finder of modules that says that pandas is not installed."""

    def find_spec(self, name: str, *_: object) -> None:
        """Raise ModuleNotFoundError for pandas, and leave all others to the next finder."""
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


def _leave_out_pandas() -> None:
    """Have PyArrow take pandas for not installed in this process, unless one of the two was used before."""
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.scalar(0)  # PyArrow tries once
    finally:
        sys.meta_path.remove(finder)


if is_own_process():
    _leave_out_pandas()
