"""Images that are not stored: how many are allowed, and the table that lists each with its reason."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convnext_imagenet.ingest.errors import QuarantineError, first_few
from convnext_imagenet.records.schema import QUARANTINE_FILE

_ALLOWED_SHARE = 0.01


@dataclass(frozen=True, order=True)
class Quarantined:
    """An image left out of the records: `path` is below DATA, `label` its class index, `reason` a short code."""

    split: str
    key: str
    path: str
    label: int
    reason: str
    detail: str


def allowed_number(option: int | None, class_rule: str, images: int) -> int:
    """How many images may be bad: what the option says, else none of the official set and 1 % of any other."""
    if option is not None:
        return option
    return 0 if class_rule == "all" else max(1, int(images * _ALLOWED_SHARE))


def table_bytes(entries: Sequence[Quarantined]) -> bytes:
    """The Parquet file of the entries, sorted; equal entries give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"split": pa.string(), "key": pa.string(), "path": pa.string(), "label": pa.int32()}
    types |= {"reason": pa.string(), "detail": pa.string()}
    rows = sorted(entries)
    columns = {name: [getattr(entry, name) for entry in rows] for name in types}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=pa.schema(list(types.items()))), buffer)
    return buffer.getvalue()


def refuse_too_many(entries: Sequence[Quarantined], allowed: int, out: Path) -> None:
    """Raise QuarantineError when more images are bad than were allowed."""
    if len(entries) <= allowed:
        return
    cases = [f"{entry.path} ({entry.reason}: {entry.detail})" for entry in sorted(entries)]
    raise QuarantineError(
        f"too many bad images: {len(entries)} in quarantine, {allowed} allowed: {first_few(cases)}; "
        f"all are listed in {out / QUARANTINE_FILE}. Every shard is written but the records are not marked as "
        f"finished: to accept them without these images, run the same command with --max-quarantine "
        f"{len(entries)}; or mend the images and build into another directory"
    )
