"""Finds images with equal bytes before a split is made: only files of equal size are read. Decodes nothing."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from convnext_imagenet.ingest.shards.plan import PlannedRow
from convnext_imagenet.ingest.shards.source_reader import SourceReader
from convnext_imagenet.ingest.source.samples import Sample
from convnext_imagenet.records.image_headers import BadImage


def digests_of_copies(
    data: Path,
    samples: Sequence[Sample],
    follow_links: bool,
    on_progress: Callable[[int], None] = lambda count: None,
    stored_sizes: Collection[int] = (),
) -> dict[int, str]:
    """Return the SHA-256 of each sample that has the size of another, or of a stored image, by its number.

    Raises FailedIngestError when a file cannot be read. An image that is no plain file has no digest.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        by_size[sample.size].append(number)
    digests = {}
    with SourceReader(data, follow_links) as reader:
        for size, numbers in by_size.items():
            if len(numbers) == 1 and size not in stored_sizes:
                continue
            for number in sorted(numbers):
                sample = samples[number]
                row = PlannedRow(
                    number,
                    sample.path,
                    "",
                    0,
                    sample.size,
                    sample.offset,
                    sample.modified_ns,
                    container=sample.container,
                )
                try:
                    digests[number] = hashlib.sha256(reader.read(row)).hexdigest()
                except BadImage:
                    continue
                on_progress(1)
    return digests
