"""How large header and pages of a shard are, and what fits into them. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_KIB, _MIB = 1 << 10, 1 << 20
_SMALLEST_HEADER, _LARGEST_HEADER = 16 * _KIB, 128 * _MIB  # the limits of FileWriter.set_header_size
_SMALLEST_PAGE, _LARGEST_PAGE = 256 * _KIB, 256 * _MIB  # the larger is the limit of FileWriter.set_page_size
_HEADER_BYTES_PER_PAGE = 512
_PAGE_STEP = 64 * _KIB  # page sizes are round, and leave this much beside the largest row for what MindRecord adds
_TYPICAL_GAP = 48 * _KIB  # half a row of ImageNet, whose images have 110 KB on average: see page_layout
ROWS_PER_WRITE, BYTES_PER_WRITE = 64, 32 << 20  # fixed, because the batches decide a shard's bytes, too
_SIZE_BYTES = 8  # before each image in its page
_SCALAR_BYTES = 70  # of a row in a page of the other fields, about; the key is part of it
_INDEX_BYTES, _INDEX_BYTES_PER_ROW = 12 * _KIB, 50  # of the .db file, about


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


def largest_image_bytes(page_bytes: int) -> int:
    """Return how large an image may be that a page holds, behind the 8 bytes of its size."""
    return page_bytes - _SIZE_BYTES


def shard_capacity(header_bytes: int, page_bytes: int) -> int:
    """Return how many bytes of images fit into a shard whose header and pages have these sizes, at least one page."""
    pages = (header_bytes - 16 * _KIB) // _HEADER_BYTES_PER_PAGE
    return max(1, pages // 2 - 2) * page_bytes


def expected_shard_bytes(layout: PageLayout, image_bytes: Iterable[int]) -> int:
    """Return about how large a shard of these images and its .db become; 0 without images, which give no shard.

    Images fill page after page in their order, and none spans two. The other fields have a page of their own. Only the
    last page of the file is not filled up: it is theirs if one write held all rows, else that of the images.
    """
    rows = full_pages = used = total = 0
    for size in image_bytes:
        if used + size + _SIZE_BYTES > layout.page_bytes:
            full_pages, used = full_pages + 1, 0
        used += size + _SIZE_BYTES
        rows, total = rows + 1, total + size
    if not rows:
        return 0
    index = _INDEX_BYTES + rows * _INDEX_BYTES_PER_ROW
    scalars = rows * _SCALAR_BYTES
    if rows <= ROWS_PER_WRITE and total < BYTES_PER_WRITE:
        return layout.header_bytes + (full_pages + 1) * layout.page_bytes + scalars + index
    scalar_pages = -(-scalars // layout.page_bytes)
    return layout.header_bytes + (full_pages + scalar_pages) * layout.page_bytes + used + index


def _power_of_two(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()
