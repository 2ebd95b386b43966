"""What the receipt of a published shard says, and what the manifest takes from it. Pure: reads no file."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext_imagenet.records.index import shard_index_path
from convnext_imagenet.records.manifest import ShardEntry, SplitEntry


def shard_files(shard: Path) -> list[Path]:
    """Return the files of a shard in the order of its receipt: the shard, MindRecord's index, the table of its rows."""
    return [shard, shard.with_name(f"{shard.name}.db"), shard_index_path(shard)]


def shard_facts(
    labels: Iterable[int], quarantined: Sequence[Mapping[str, Any]] = (), reencoded: int = 0
) -> dict[str, Any]:
    """Return the facts for the receipt of a shard, from the `labels` of its stored images.

    `quarantined` has a mapping for each image that is not stored; `reencoded` counts the stored images whose bytes are
    not those of the file.
    """
    per_class = Counter(labels)
    return {
        "rows": per_class.total(),
        "rows_per_class": {str(label): count for label, count in sorted(per_class.items())},
        "quarantined": list(quarantined),
        "reencoded": reencoded,
    }


def split_entry(receipts: Sequence[Mapping[str, Any]], classes: int) -> SplitEntry:
    """Return the manifest's entry of a split from the receipts of its shards in order; `classes` is their number."""
    per_class: Counter[int] = Counter()
    for receipt in receipts:
        per_class.update({int(label): count for label, count in receipt["facts"]["rows_per_class"].items()})
    return SplitEntry(
        rows=per_class.total(),
        rows_per_class=tuple(per_class[index] for index in range(classes)),
        quarantined=sum(len(receipt["facts"]["quarantined"]) for receipt in receipts),
        shards=tuple(_shard_entry(receipt) for receipt in receipts if receipt["files"]),
    )


def _shard_entry(receipt: Mapping[str, Any]) -> ShardEntry:
    data, index, _table = receipt["files"]  # in the order of shard_files
    return ShardEntry(
        name=data["name"],
        rows=receipt["facts"]["rows"],
        bytes=data["bytes"],
        sha256=data["sha256"],
        index_bytes=index["bytes"],
        index_sha256=index["sha256"],
    )
