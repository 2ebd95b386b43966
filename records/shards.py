"""One MindRecord shard: written so that equal rows give equal bytes, and read back. Knows nothing of other shards."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mindspore.mindrecord import FileWriter

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.records.mindrecord_alone import is_mindrecord_alone, read_alone
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
    """Yield every row of one shard, in the order in which it was written, as MindSpore reads it.

    Raises FailedError when MindSpore refuses to read it; of a shard that is cut off it may yield the first rows
    only, or end this process by a segmentation fault.
    """
    try:
        columns = list(MINDRECORD_SCHEMA)
        rows = read_alone(path, columns) if is_mindrecord_alone() else _read_by_dataset(path, columns)
        for values in rows:
            yield Row(**dict(zip(columns, map(python_value, values), strict=True)))
    except Exception as error:  # as in `_call`
        raise FailedError(
            f"{path}: MindSpore cannot read it back ({_first_line(error)}); the disk may be full or failing: check it "
            f"and run the same command again"
        ) from error


def _read_by_dataset(path: Path, columns: list[str]) -> Iterator[list[Any]]:
    import mindspore.dataset as ds  # here: it imports all of MindSpore

    dataset = ds.MindDataset([str(path)], columns_list=columns, shuffle=False, num_parallel_workers=1)
    yield from dataset.create_tuple_iterator(columns, num_epochs=1, output_numpy=True)


def python_value(value: Any) -> Any:
    """Return a field that MindSpore's reader gives as a NumPy array as bytes, str or int."""
    if value.dtype.kind == "S":
        return value.tobytes()
    return value.item()


def _call(path: Path, function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except Exception as error:  # MindRecord raises a dozen types; all mean here that the disk refused the write
        raise FailedError(
            f"{path}: MindRecord could not write ({_first_line(error)}); check free space and permissions"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
