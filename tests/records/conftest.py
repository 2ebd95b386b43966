"""A tiny finished RECORDS directory, made through the same calls that ingest makes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.base import protocol
from convnext_imagenet.records.manifest import ClassEntry, Manifest, ShardEntry, SplitEntry
from convnext_imagenet.records.schema import SCHEMA_VERSION, Row, shard_name
from convnext_imagenet.records.shards import page_layout, write_shard

WNIDS = ("n00000001", "n00000002")


def jpeg(seed: int, width: int = 20, height: int = 12, mode: str = "RGB") -> bytes:
    """A small noisy JPEG."""
    channels = {"L": (), "RGB": (3,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_rows(count: int) -> list[Row]:
    return [
        Row(jpeg(i), label=i % 2, sample_id=i, key=f"{WNIDS[i % 2]}_{i}", height=12, width=20) for i in range(count)
    ]


def build_records(root: Path, rows: list[Row], shards: int = 2) -> Path:
    """Publish `rows` as the train split of a finished directory."""
    plan_id = protocol.begin(root, "records", {"rows": [row.key for row in rows]})
    layout = page_layout(max(len(row.image) for row in rows), sum(len(row.image) for row in rows))
    entries = []
    with protocol.exclusive(root):
        stage = protocol.staging(root)
        for k in range(shards):
            path = stage / shard_name("train", k, shards)
            part = rows[k::shards]
            write_shard(path, part, layout)
            staged = [path, path.with_name(path.name + ".db")]
            data, index = protocol.publish(staged, root / "train", path.stem, plan_id, {"rows": len(part)})["files"]
            entries.append(
                ShardEntry(path.name, len(part), data["bytes"], data["sha256"], index["bytes"], index["sha256"])
            )
        counts = tuple(sum(row.label == label for row in rows) for label in range(len(WNIDS)))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            plan_id=plan_id,
            classes=tuple(ClassEntry(i, wnid, f"name {i}") for i, wnid in enumerate(WNIDS)),
            splits={"train": SplitEntry(len(rows), counts, 0, tuple(entries))},
            source={"verified": True},
            seed=0,
            versions={},
        )
        protocol.finish(root, "records", manifest.to_json())
    return root


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the memory of checked files out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def records_root(tmp_path: Path) -> Path:
    return build_records(tmp_path / "records", make_rows(7))
