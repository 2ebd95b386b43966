"""A tiny finished RECORDS directory, made through the same calls that ingest makes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import Row

from ..records_of import finished_records

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


def build_records(root: Path, rows: list[Row], shards: int = 2, is_verified: bool = True) -> Path:
    """Publish `rows` as the train split of a finished directory."""
    classes = [ClassEntry(i, wnid, f"name {i}") for i, wnid in enumerate(WNIDS)]
    plan = {"rows": [row.key for row in rows]}
    return finished_records(root, {"train": rows}, classes, plan, shards, is_verified)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the memory of checked files out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def records_root(tmp_path: Path) -> Path:
    return build_records(tmp_path / "records", make_rows(7))
