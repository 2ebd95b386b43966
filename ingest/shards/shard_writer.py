"""One shard, from source files to published records; runs in a worker process and knows nothing of other shards.

Each file is read once, and decoded completely in a separate process before it is stored. The finished shard is read
back and compared row by row with what was written, before it gets its final name.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from convnext_imagenet.base.protocol import publish
from convnext_imagenet.ingest.errors import FailedIngestError
from convnext_imagenet.ingest.shards.decode_client import (
    BATCH_BYTES,
    BATCH_IMAGES,
    DecodeClient,
    DecodeRequest,
    lasting_client,
)
from convnext_imagenet.ingest.shards.decode_messages import DecodedImage
from convnext_imagenet.ingest.shards.image_policy import ImagePolicy
from convnext_imagenet.ingest.shards.plan import PlannedRow
from convnext_imagenet.ingest.shards.source_reader import SourceReader
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.index import IndexEntry, index_entry, shard_index_path, write_shard_index
from convnext_imagenet.records.page_sizes import PageLayout, page_layout
from convnext_imagenet.records.quarantine import Quarantined
from convnext_imagenet.records.receipts import shard_facts, shard_files
from convnext_imagenet.records.schema import Row

_MISNAMED = "expected WNID_<number>.JPEG in train, ILSVRC2012_val_<8 digits>.JPEG in val"


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs for one shard; `staging` is a folder for this shard only, which need not exist.

    `pictured` has the sample ids of the images whose thumbnails the report shows, `dropped` the reason for each image
    that --drop names. `layout` are the sizes of header and pages in bytes, None for the best ones.
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
    image_policy: ImagePolicy = field(default_factory=ImagePolicy)
    pictured: frozenset[int] = frozenset()
    dropped: Mapping[int, str] = field(default_factory=dict)
    layout: tuple[int, int] | None = None

    @property
    def title(self) -> str:
        """The shard with its first and last image, for messages."""
        return f"{self.shard} ({self.rows[0].path} to {self.rows[-1].path})" if self.rows else self.shard

    def attempt(self, number: int) -> Self:
        """Return the same task with another staging folder: a lost node may still write to the old one."""
        return replace(self, staging=self.staging.with_name(f"{self.staging.name}.{number}"))


@dataclass
class _ShardTally:
    """The outcome for the images of one shard: the stored ones, row by row, and those that are not stored."""

    stored: list[IndexEntry] = field(default_factory=list)
    bad: list[Quarantined] = field(default_factory=list)
    reencoded: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """What the receipt says about the shard."""
        labels = [entry.label for entry in self.stored]
        return shard_facts(labels, [asdict(entry) for entry in self.bad], self.reencoded)


def write_unit(task: ShardTask, on_progress: Callable[[int], None]) -> None:
    """Write, read back, publish and mark one shard; its receipt lists images that fail their check.

    Raises FailedIngestError when a source file has changed since the plan or cannot be read, and when the shard reads
    back other than it was written.
    """
    shutil.rmtree(task.staging, ignore_errors=True)
    task.staging.mkdir(parents=True)
    tally = _ShardTally()
    staged = _write_files(task, lasting_client(task.image_policy), tally, on_progress)
    publish(staged, task.folder, Path(task.shard).stem, task.plan_id, tally.facts)
    shutil.rmtree(task.staging)


def _write_files(
    task: ShardTask, client: DecodeClient, tally: _ShardTally, on_progress: Callable[[int], None]
) -> list[Path]:
    # Imported here because MindSpore takes seconds to load, and the parent process does not need it.
    from convnext_imagenet.records.shards import read_back, write_shard

    rows = _accepted_rows(task, client, tally, on_progress)
    if (first := next(rows, None)) is None:  # MindSpore cannot open an empty shard: its receipt names no file
        return []
    path = task.staging / task.shard
    best = page_layout(task.largest_row_bytes, task.largest_shard_bytes)
    write_shard(path, itertools.chain([first], rows), PageLayout(*task.layout) if task.layout else best)
    _require_same_rows(task.shard, read_back(path), tally.stored)
    write_shard_index(shard_index_path(path), tally.stored, task.image_policy.has_pictures)
    return shard_files(path)


def _accepted_rows(
    task: ShardTask, client: DecodeClient, tally: _ShardTally, on_progress: Callable[[int], None]
) -> Iterator[Row]:
    """Yield the rows of the images that pass their check; note in `tally` what was stored and what was not."""
    for planned, decoded in _decoded_images(task, client):
        if isinstance(decoded, BadImage):
            named = (task.split, planned.key, planned.path, planned.label)
            tally.bad.append(Quarantined(*named, decoded.reason, decoded.detail))
        else:
            info = decoded.info
            row = Row(decoded.image, planned.label, planned.sample_id, planned.key, info.height, info.width)
            tally.stored.append(index_entry(row, info.mode, info.warnings, decoded.thumbnail, decoded.small))
            tally.reencoded += decoded.is_reencoded
            yield row
        on_progress(1)


def _decoded_images(task: ShardTask, client: DecodeClient) -> Iterator[tuple[PlannedRow, DecodedImage | BadImage]]:
    """Yield each planned image with its result, in order; one batch is decoded while others are read and stored."""
    with SourceReader(task.data, task.follow_links) as reader:
        rows = iter(task.rows)
        batch, questions = _read_batch(reader, rows, task)
        client.begin(questions)
        while batch:
            following, questions = _read_batch(reader, rows, task)
            answers = client.results()
            client.begin(questions)
            yield from zip(batch, answers, strict=True)
            batch = following


def _read_batch(
    reader: SourceReader, rows: Iterator[PlannedRow], task: ShardTask
) -> tuple[list[PlannedRow], list[DecodeRequest | BadImage]]:
    """Return the next rows of the shard, and for each the bytes to decode, or why they cannot be read."""
    batch: list[PlannedRow] = []
    questions: list[DecodeRequest | BadImage] = []
    size = 0
    while len(batch) < BATCH_IMAGES and size < BATCH_BYTES and (row := next(rows, None)):
        batch.append(row)
        try:
            if row.is_misnamed:
                raise BadImage("misnamed", _MISNAMED)
            if row.sample_id in task.dropped:
                raise BadImage("dropped", task.dropped[row.sample_id])
            image = reader.read(row)
        except BadImage as error:
            questions.append(error)
        else:
            size += len(image)
            questions.append(DecodeRequest(image, row.sample_id in task.pictured))
    return batch, questions


def _require_same_rows(shard: str, rows: Iterator[Row], stored: list[IndexEntry]) -> None:
    """Raise FailedIngestError at the first row that reads back other than it was stored."""
    # No row holds these.
    expected_entries = (entry._replace(mode="", warnings=0, thumbnail=None, small=None) for entry in stored)
    entries = (index_entry(row, mode="") for row in rows)
    for number, (entry, expected) in enumerate(itertools.zip_longest(entries, expected_entries)):
        if entry != expected:
            raise FailedIngestError(
                f"{shard}: row {number} reads back as {_describe(entry)}, but {_describe(expected)} was written; "
                f"the disk may be full or failing: check it and run the same command again"
            )


def _describe(entry: IndexEntry | None) -> str:
    return "nothing" if entry is None else f"{entry.key} (label {entry.label}, sha256 {entry.sha256[:12]})"
