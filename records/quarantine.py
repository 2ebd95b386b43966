"""The table of images that are not stored, each with its reason: `quarantine.parquet`. Decides nothing."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "key": pa.string(),
        "path": pa.string(),
        "label": pa.int32(),
        "reason": pa.string(),
        "detail": pa.string(),
    }
)


@dataclass(frozen=True, order=True)
class Quarantined:
    """An image that is not stored: `path` is below DATA, `label` is its class index, `reason` a code of REASONS."""

    split: str
    key: str
    path: str
    label: int
    reason: str
    detail: str


def quarantined_in(receipts: Iterable[Mapping[str, Any]]) -> list[Quarantined]:
    """Return the images that the receipts of shards list as not stored, sorted."""
    return sorted(Quarantined(**entry) for receipt in receipts for entry in receipt["facts"]["quarantined"])


def table_bytes(entries: Sequence[Quarantined]) -> bytes:
    """Return the Parquet file of the entries, sorted; equal entries give equal bytes."""
    rows = sorted(entries)
    columns = {name: [getattr(entry, name) for entry in rows] for name in _SCHEMA.names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), buffer)
    return buffer.getvalue()
