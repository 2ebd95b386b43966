"""Rows in memory as a finished RECORDS directory, by the calls that ingest makes."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from convnext_imagenet.base import protocol
from convnext_imagenet.records.build import make_manifest, mark_finished, write_summary_files
from convnext_imagenet.records.images import check_image_and_luminance
from convnext_imagenet.records.index import index_entry, shard_index_path, write_shard_index
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.page_sizes import page_layout
from convnext_imagenet.records.quarantine import table_bytes
from convnext_imagenet.records.receipts import shard_facts, shard_files, split_entry
from convnext_imagenet.records.schema import SMALL_VERSION, Row, shard_name
from convnext_imagenet.records.shards import write_shard
from convnext_imagenet.records.small_picture import small_picture


def finished_records(
    root: Path,
    splits: Mapping[str, Sequence[Row]],
    classes: Sequence[ClassEntry],
    plan: Mapping[str, Any],
    shards: int = 1,
    is_verified: bool = True,
    has_pictures: bool = False,
) -> Path:
    """Publish the rows of each split, dealt over `shards` shards, as a finished directory; returns `root`.

    With `has_pictures`, the small picture of each JPEG is stored, too.
    """
    plan_id = protocol.begin(root, "records", {"shards": dict.fromkeys(splits, shards), **plan})
    with protocol.exclusive(root):
        receipts = {
            name: [_publish_shard(root, name, k, shards, rows, plan_id, has_pictures) for k in range(shards)]
            for name, rows in splits.items()
        }
        entries = {name: split_entry(published, len(classes)) for name, published in receipts.items()}
        treatment = {"treatment": {"small_pictures": SMALL_VERSION}} if has_pictures else {}
        manifest = make_manifest(plan_id, tuple(classes), entries, {"verified": is_verified, **treatment})
        mark_finished(root, write_summary_files(root, manifest, table_bytes([]), []))
    return root


def _publish_shard(
    root: Path, split: str, k: int, shards: int, rows: Sequence[Row], plan_id: str, has_pictures: bool
) -> dict[str, Any]:
    path = protocol.staging(root) / shard_name(split, k, shards)
    dealt = rows[k::shards]
    sizes = [len(row.image) for row in rows]
    write_shard(path, dealt, page_layout(max(sizes), sum(sizes)))
    pictures = [_small(row.image) if has_pictures else None for row in dealt]
    entries = [index_entry(row, _mode(row.image), small=small) for row, small in zip(dealt, pictures, strict=True)]
    write_shard_index(shard_index_path(path), entries, has_pictures)
    facts = shard_facts([row.label for row in dealt])
    return protocol.publish(shard_files(path), root / split, path.stem, plan_id, facts)


def _small(image: bytes) -> bytes | None:
    light = check_image_and_luminance(image)[1]
    return None if light is None else small_picture(light).tobytes()


def _mode(image: bytes) -> str:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            return opened.mode
    except OSError:
        return "RGB"  # tests store damaged images, too
