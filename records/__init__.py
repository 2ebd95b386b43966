"""The stored format: schema, manifest, reading order, safe image decoding, publish-then-mark, verification.

`open_records` reads RECORDS from any Python program, without MindSpore; it is loaded at its first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convnext_imagenet.records.row_source import open_records as open_records

__all__ = ["open_records"]


def __getattr__(name: str) -> Any:
    if name != "open_records":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from convnext_imagenet.records.row_source import open_records

    return open_records
