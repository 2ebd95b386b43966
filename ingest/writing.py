"""One shard, from source files to published records; runs in a worker process and knows nothing of the others.

Each file is read once, checked whole before it is stored, and the finished shard is read back and compared with
what was meant, row by row, before it gets its final name.
"""

import hashlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.plan import PlannedRow
from convnext_imagenet.ingest.quarantine import Quarantined
from convnext_imagenet.records.artefact import publish
from convnext_imagenet.records.images import LARGEST_FILE_BYTES, BadImage, check_image
from convnext_imagenet.records.schema import Row


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs for one shard; `staging` is this shard's own folder, it need not exist."""

    data: Path
    folder: Path
    staging: Path
    plan_id: str
    split: str
    shard: str
    rows: list[PlannedRow]
    largest_row_bytes: int
    largest_shard_bytes: int


class _Stored(NamedTuple):
    """What the shard must give back for a row."""

    sample_id: int
    key: str
    label: int
    height: int
    width: int
    sha256: bytes


def write_unit(task: ShardTask, on_progress: Callable[[int], None]) -> None:
    """Write, read back, publish and mark one shard; images that fail their check go into the receipt's facts.

    Raises IngestError when a source file has changed since the plan or cannot be read, and when the shard does
    not read back as it was written.
    """
    # Imported here since MindSpore takes seconds to load, and the parent process has no need of it.
    from convnext_imagenet.records.shards import page_layout, read_back, write_shard

    shutil.rmtree(task.staging, ignore_errors=True)
    task.staging.mkdir(parents=True)
    path = task.staging / task.shard
    stored: list[_Stored] = []
    bad: list[Quarantined] = []
    rows = _accepted_rows(task, stored, bad, on_progress)
    first = next(rows, None)
    staged = []
    if first is not None:
        layout = page_layout(task.largest_row_bytes, task.largest_shard_bytes)
        write_shard(path, itertools.chain([first], rows), layout)
        _compare(task.shard, read_back(path), stored)
        staged = [path, path.with_name(f"{path.name}.db")]
    per_class = Counter(entry.label for entry in stored)
    facts = {
        "rows": len(stored),
        "rows_per_class": {str(label): count for label, count in sorted(per_class.items())},
        "quarantined": [asdict(entry) for entry in bad],
    }
    publish(staged, task.folder, Path(task.shard).stem, task.plan_id, facts)
    shutil.rmtree(task.staging)


def _accepted_rows(
    task: ShardTask, stored: list[_Stored], bad: list[Quarantined], on_progress: Callable[[int], None]
) -> Iterator[Row]:
    """The rows of the images that pass their check; notes what was stored and what was not."""
    for planned in task.rows:
        try:
            row = _checked_row(task.data, planned)
        except BadImage as error:
            bad.append(Quarantined(task.split, planned.key, planned.path, planned.label, error.reason, error.detail))
        else:
            stored.append(_as_stored(row))
            yield row
        on_progress(1)


def _checked_row(data: Path, planned: PlannedRow) -> Row:
    image = _read_source(data / planned.path, planned.size)
    info = check_image(image)
    return Row(image, planned.label, planned.sample_id, planned.key, info.height, info.width)


def _read_source(path: Path, planned_size: int) -> bytes:
    """The file's bytes, which must be as many as the plan says; BadImage when they are too many to be read."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            image = b"" if size > LARGEST_FILE_BYTES else file.read(size + 1)
    except OSError as error:
        raise IngestError(
            f"{path}: cannot be read ({error.strerror}); mend it and run the same command again, "
            f"finished shards are kept"
        ) from None
    if size != planned_size or (image and len(image) != size):
        raise IngestError(
            f"{path}: changed during the ingest ({planned_size} bytes planned, {max(size, len(image))} found); "
            f"let nothing write there, and build into another directory"
        )
    if size > LARGEST_FILE_BYTES:
        raise BadImage("too_large", f"{size} bytes, at most {LARGEST_FILE_BYTES} are read")
    return image


def _as_stored(row: Row) -> _Stored:
    digest = hashlib.sha256(row.image).digest()
    return _Stored(row.sample_id, row.key, row.label, row.height, row.width, digest)


def _compare(shard: str, found_rows: Iterator[Row], stored: list[_Stored]) -> None:
    for number, (found, meant) in enumerate(itertools.zip_longest(map(_as_stored, found_rows), stored)):
        if found != meant:
            raise IngestError(
                f"{shard}: row {number} reads back as {_told(found)}, meant was {_told(meant)}; "
                f"the disk may be full or failing: look at it and run the same command again"
            )


def _told(row: _Stored | None) -> str:
    return "nothing" if row is None else f"{row.key} (label {row.label}, sha256 {row.sha256.hex()[:12]})"
