"""One shard, from source files to published records; runs in a worker process and knows nothing of the others.

Each file is read once, decoded whole in a process of its own before it is stored, and the finished shard is read
back and compared with what was meant, row by row, before it gets its final name.
"""

import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from convnext_imagenet.base.protocol import publish
from convnext_imagenet.ingest.errors import FailedIngestError
from convnext_imagenet.ingest.shards.decode_client import (
    BATCH_BYTES,
    BATCH_IMAGES,
    CheckedImage,
    Checker,
    Request,
    lasting_checker,
)
from convnext_imagenet.ingest.shards.image_policy import Treatment
from convnext_imagenet.ingest.shards.plan import PlannedRow
from convnext_imagenet.ingest.shards.quarantine import Quarantined
from convnext_imagenet.ingest.shards.source_reader import SourceReader
from convnext_imagenet.records.images import BadImage
from convnext_imagenet.records.index import IndexEntry, shard_index_path, write_shard_index
from convnext_imagenet.records.schema import Row


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs for one shard; `staging` is this shard's own folder, it need not exist.

    `pictured` holds the sample ids of which a thumbnail is kept for the report.
    """

    data: Path
    folder: Path
    staging: Path
    plan_id: str
    split: str
    shard: str
    rows: list[PlannedRow]
    largest_row_bytes: int
    largest_shard_bytes: int
    follow_links: bool = False
    treatment: Treatment = field(default_factory=Treatment)
    pictured: frozenset[int] = frozenset()

    @property
    def title(self) -> str:
        """The shard, and between which images its own lie."""
        return f"{self.shard} ({self.rows[0].path} to {self.rows[-1].path})" if self.rows else self.shard

    def attempt(self, number: int) -> Self:
        """The same shard, staged in another folder."""
        return replace(self, staging=self.staging.with_name(f"{self.staging.name}.{number}"))


@dataclass
class _Account:
    """What became of the images of one shard: what it must give back row by row, and what is not in it."""

    stored: list[IndexEntry] = field(default_factory=list)
    bad: list[Quarantined] = field(default_factory=list)
    reencoded: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What the receipt says about the shard."""
        per_class = Counter(entry.label for entry in self.stored)
        return {
            "rows": len(self.stored),
            "rows_per_class": {str(label): count for label, count in sorted(per_class.items())},
            "quarantined": [asdict(entry) for entry in self.bad],
            "reencoded": self.reencoded,
        }


def write_unit(task: ShardTask, on_progress: Callable[[int], None]) -> None:
    """Write, read back, publish and mark one shard; images that fail their check go into the receipt's facts.

    Raises FailedIngestError when a source file has changed since the plan or cannot be read, and when the shard does
    not read back as it was written.
    """
    shutil.rmtree(task.staging, ignore_errors=True)
    task.staging.mkdir(parents=True)
    account = _Account()
    staged = _write_files(task, lasting_checker(task.treatment), account, on_progress)
    publish(staged, task.folder, Path(task.shard).stem, task.plan_id, account.facts)
    shutil.rmtree(task.staging)


def _write_files(
    task: ShardTask, checker: Checker, account: _Account, on_progress: Callable[[int], None]
) -> list[Path]:
    # Imported here since MindSpore takes seconds to load, and the parent process has no need of it.
    from convnext_imagenet.records.shards import page_layout, read_back, write_shard

    rows = _accepted_rows(task, checker, account, on_progress)
    if (first := next(rows, None)) is None:
        return []
    path = task.staging / task.shard
    write_shard(path, itertools.chain([first], rows), page_layout(task.largest_row_bytes, task.largest_shard_bytes))
    _compare(task.shard, read_back(path), account.stored)
    write_shard_index(shard_index_path(path), account.stored)
    return [path, path.with_name(f"{path.name}.db"), shard_index_path(path)]


def _accepted_rows(
    task: ShardTask, checker: Checker, account: _Account, on_progress: Callable[[int], None]
) -> Iterator[Row]:
    """The rows of the images that pass their check; notes what was stored and what was not."""
    for planned, checked in _checked_images(task, checker):
        if isinstance(checked, BadImage):
            row_of = (task.split, planned.key, planned.path, planned.label)
            account.bad.append(Quarantined(*row_of, checked.reason, checked.detail))
        else:
            info = checked.info
            row = Row(checked.image, planned.label, planned.sample_id, planned.key, info.height, info.width)
            account.stored.append(_entry(row, info.mode, checked.thumbnail))
            account.reencoded += checked.is_reencoded
            yield row
        on_progress(1)


def _checked_images(task: ShardTask, checker: Checker) -> Iterator[tuple[PlannedRow, CheckedImage | BadImage]]:
    """Each image with its verdict, in order; a batch is decoded while others are read and stored."""
    with SourceReader(task.data, task.follow_links) as reader:
        rows = iter(task.rows)
        checker.begin(_requests(batch := _read_batch(reader, rows), task.pictured))
        while batch:
            following = _read_batch(reader, rows)
            checked = iter(checker.results())
            checker.begin(_requests(following, task.pictured))
            for row, image in batch:
                yield row, image if isinstance(image, BadImage) else next(checked)
            batch = following


def _requests(batch: list[tuple[PlannedRow, bytes | BadImage]], pictured: frozenset[int]) -> list[Request]:
    return [Request(image, row.sample_id in pictured) for row, image in batch if isinstance(image, bytes)]


def _read_batch(reader: SourceReader, rows: Iterator[PlannedRow]) -> list[tuple[PlannedRow, bytes | BadImage]]:
    batch: list[tuple[PlannedRow, bytes | BadImage]] = []
    size = 0
    while len(batch) < BATCH_IMAGES and size < BATCH_BYTES and (row := next(rows, None)):
        try:
            image = reader.read(row)
        except BadImage as error:
            batch.append((row, error))
        else:
            size += len(image)
            batch.append((row, image))
    return batch


def _entry(row: Row, mode: str, thumbnail: bytes | None) -> IndexEntry:
    digest = hashlib.sha256(row.image).hexdigest()
    sides = (row.width, row.height)
    return IndexEntry(row.key, row.sample_id, row.label, len(row.image), *sides, mode, digest, thumbnail)


def _compare(shard: str, found_rows: Iterator[Row], stored: list[IndexEntry]) -> None:
    meant_rows = (entry._replace(mode="", thumbnail=None) for entry in stored)
    found_entries = (_entry(row, "", None) for row in found_rows)
    for number, (found, meant) in enumerate(itertools.zip_longest(found_entries, meant_rows)):
        if found != meant:
            raise FailedIngestError(
                f"{shard}: row {number} reads back as {_told(found)}, meant was {_told(meant)}; "
                f"the disk may be full or failing: look at it and run the same command again"
            )


def _told(row: IndexEntry | None) -> str:
    return "nothing" if row is None else f"{row.key} (label {row.label}, sha256 {row.sha256[:12]})"
