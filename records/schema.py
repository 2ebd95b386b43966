"""The fields of a stored row, their ranges, and the names of its files. Knows nothing of how they are written."""

from dataclasses import dataclass
from typing import Any

from convnext_imagenet.base.errors import ArtefactError

SCHEMA_VERSION = 1  # raise when this program can no longer read older records
# Raise when the same accepted images become other bytes: pages and headers of shards, re-encoding, the row index.
WRITING_VERSION = 2
# Raise when the same coefficients give another picture: audits then leave pictures of the old version unused.
SMALL_VERSION = 1
MINDRECORD_SCHEMA = {
    "image": {"type": "bytes"},
    "label": {"type": "int32"},
    "sample_id": {"type": "int64"},
    "key": {"type": "string"},
    "height": {"type": "int32"},
    "width": {"type": "int32"},
}
INDEX_FIELDS = ["label"]
QUARANTINE_FILE = "quarantine.parquet"
HOW_TO_REPAIR = (
    "restore it from a copy, or run the same `convnext-ingest build` with --repair; "
    "if the source is gone: `convnext-records repair`"
)
HOW_TO_BUILD_ANEW = (
    "the bytes are those that were written, perhaps by a version that checked less; "
    "build the records again into another directory"
)
_INT32_MAX, _INT64_MAX = 2**31 - 1, 2**63 - 1
_LARGEST_IMAGE_BYTES = 128 << 20  # a row must fit into one page of MindRecord, 256 MiB at most


@dataclass(frozen=True)
class Row:
    """One stored image.

    `image` has the bytes of the file unchanged, `label` is the class index 0..classes-1, `sample_id` the rank of the
    row's key in its split, `key` the file name without its ending (n01440764_10026); `height` and `width` are in
    pixels.
    """

    image: bytes
    label: int
    sample_id: int
    key: str
    height: int
    width: int


def validate_row(row: Row) -> None:
    """Raise ArtefactError for a row that MindRecord would silently drop, clamp or truncate."""
    for name, value, low, high in (
        ("label", row.label, 0, _INT32_MAX),
        ("sample_id", row.sample_id, 0, _INT64_MAX),
        ("height", row.height, 1, _INT32_MAX),
        ("width", row.width, 1, _INT32_MAX),
        ("bytes of image", len(row.image), 1, _LARGEST_IMAGE_BYTES),
    ):
        if not isinstance(value, int) or not low <= value <= high:
            raise ArtefactError(f"row {row.key!r}: {name} is {value!r}, but must be an int from {low} to {high}")
    if not row.key or not row.key.isprintable():
        raise ArtefactError(f"row {row.key!r}: the key must be printable text and not empty")


def as_fields(row: Row) -> dict[str, Any]:
    """Return the row as a dict for MindRecord's writer."""
    return {name: getattr(row, name) for name in MINDRECORD_SCHEMA}


def shard_name(split: str, index: int, count: int) -> str:
    """Return the file name of shard `index` (from 0) of `count`; MindRecord also stores this name in the shard."""
    return f"imagenet-{split}-{index:05d}-of-{count:05d}.mindrecord"
