"""One MindRecord shard: written so that equal rows give equal bytes, and read back. Knows nothing of other shards."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore.dataset as ds
from mindspore.mindrecord import FileWriter

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.records.schema import INDEX_FIELDS, MINDRECORD_SCHEMA, Row, as_fields, validate_row

_ROWS_PER_WRITE, _BYTES_PER_WRITE = 64, 32 << 20  # fixed, because the batches decide the shard's bytes, too
_KIB, _MIB = 1 << 10, 1 << 20
_SMALLEST_HEADER, _LARGEST_HEADER = 16 * _KIB, 128 * _MIB  # the limits of FileWriter.set_header_size
_SMALLEST_PAGE, _LARGEST_PAGE = 256 * _KIB, 256 * _MIB  # the larger is the limit of FileWriter.set_page_size
_HEADER_BYTES_PER_PAGE = 512
_PAGE_STEP = 64 * _KIB  # page sizes are round, and leave this much beside the largest row for what MindRecord adds
_TYPICAL_GAP = 48 * _KIB  # half a row of ImageNet, whose images have 110 KB on average: see page_layout


@dataclass(frozen=True)
class PageLayout:
    """Sizes in bytes of a shard's header and pages; every shard of a set must use the same."""

    header_bytes: int
    page_bytes: int


def page_layout(largest_row_bytes: int, shard_bytes: int) -> PageLayout:
    """Return the layout that holds the largest row and adds the fewest bytes to a shard of `shard_bytes`.

    MindRecord's defaults (16 MiB and 32 MiB) add 48 MiB to every shard. A row never spans two pages, so each page ends
    with a gap of about half a row: many pages waste more. The page of the scalars and the last page are mostly empty:
    large pages waste more. The best page size is therefore proportional to the square root of the shard size. For
    2 GiB of ImageNet it is 10 MiB, or as much as the largest row needs, and adds less than 2 %. The header describes
    each page in under 512 bytes.
    """
    page = max(largest_row_bytes + _PAGE_STEP, math.isqrt(shard_bytes * _TYPICAL_GAP), _SMALLEST_PAGE)
    page = min(-(-page // _PAGE_STEP) * _PAGE_STEP, _LARGEST_PAGE)
    pages = 2 * (shard_bytes // page + 2)  # twice what is needed, because gaps are only estimated
    header = max(_SMALLEST_HEADER, _power_of_two(16 * _KIB + pages * _HEADER_BYTES_PER_PAGE))
    return PageLayout(header_bytes=min(header, _LARGEST_HEADER), page_bytes=page)


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
        if len(batch) == _ROWS_PER_WRITE or held >= _BYTES_PER_WRITE:
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


def _power_of_two(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()
