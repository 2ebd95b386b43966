"""One MindRecord shard: written so that equal rows give equal bytes, and read back. Knows nothing of other shards."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mindspore.dataset as ds
from mindspore.mindrecord import FileWriter

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.records.page_sizes import BYTES_PER_WRITE, ROWS_PER_WRITE, PageLayout
from convnext_imagenet.records.schema import INDEX_FIELDS, MINDRECORD_SCHEMA, Row, as_fields, validate_row


def write_shard(path: Path, rows: Iterable[Row], layout: PageLayout) -> None:
    """Write the rows to `path` and its index to `path` + `.db`; neither may exist yet.

    One writer, one file, fixed batches: the bytes depend only on the rows, the layout and the base name.
    Raises ArtefactError for a row outside the schema and when there is no row (MindSpore cannot open an empty shard),
    FailedError when MindRecord fails.
    """
    writer = FileWriter(str(path), shard_num=1)
    writer.set_header_size(layout.header_bytes)
    writer.set_page_size(layout.page_bytes)
    writer.add_schema(MINDRECORD_SCHEMA, "ImageNet images as found, with verified labels")
    writer.add_index(INDEX_FIELDS)
    written = 0
    for batch in _batches(rows):
        _call(path, writer.write_raw_data, [as_fields(row) for row in batch])
        written += len(batch)
    if not written:
        raise ArtefactError(f"{path.name}: no rows to write; a shard needs at least one")
    _call(path, writer.commit)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield valid rows in batches of 64 or of 32 MiB, whichever is less, so that large images need little memory."""
    batch: list[Row] = []
    held = 0
    for row in rows:
        validate_row(row)
        batch.append(row)
        held += len(row.image)
        if len(batch) == ROWS_PER_WRITE or held >= BYTES_PER_WRITE:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def read_back(path: Path) -> Iterator[Row]:
    """Yield every row of one shard in the order in which it was written."""
    columns = list(MINDRECORD_SCHEMA)
    dataset = ds.MindDataset([str(path)], columns_list=columns, shuffle=False, num_parallel_workers=1)
    for values in dataset.create_tuple_iterator(columns, num_epochs=1, output_numpy=True):
        yield Row(**dict(zip(columns, map(python_value, values), strict=True)))


def python_value(value: Any) -> Any:
    """Return a field that MindSpore's reader gives as a NumPy array as bytes, str or int."""
    if value.dtype.kind == "S":
        return value.tobytes()
    return value.item()


def _call(path: Path, function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except Exception as error:  # MindRecord raises a dozen types; all mean here that the disk refused the write
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FailedError(
            f"{path}: MindRecord could not write ({first_line}); check free space and permissions"
        ) from error
