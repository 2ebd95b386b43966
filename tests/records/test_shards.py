"""Shards: what goes in comes out, equal rows give equal bytes, and bad rows never reach MindRecord."""

import dataclasses
import os

import numpy as np
import pytest

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.records.page_sizes import expected_shard_bytes, page_layout
from convnext_imagenet.records.schema import Row, shard_name
from convnext_imagenet.records.shards import read_back, write_shard

from .conftest import make_rows

LAYOUT = page_layout(1000, 10_000)


def test_rows_come_back_as_they_went_in(tmp_path):
    rows = [*make_rows(70), Row(b"\xff\xd8ends in NUL\0\0", 1, 70, "n00000002_70", 1, 1)]
    path = tmp_path / shard_name("train", 0, 1)
    write_shard(path, rows, LAYOUT)
    assert list(read_back(path)) == rows


def test_a_shard_that_is_empty_is_one_line(tmp_path):
    path = tmp_path / shard_name("train", 0, 1)
    write_shard(path, make_rows(70), LAYOUT)
    os.truncate(path, 0)
    with pytest.raises(FailedError, match=r"cannot read it back \(.+\); the disk may be full") as caught:
        list(read_back(path))
    assert "\n" not in str(caught.value)


def test_equal_rows_give_equal_bytes_in_any_folder(tmp_path):
    hashes = set()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / shard_name("train", 0, 1)
        write_shard(path, make_rows(9), LAYOUT)
        hashes.add((sha256_file(path), sha256_file(path.with_name(path.name + ".db"))))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"label": -1},
        {"label": 2**31},
        {"sample_id": -1},
        {"height": 0},
        {"image": b""},
        {"key": ""},
        {"key": "n0\0"},
        {"label": "1"},
    ],
)
def test_a_row_that_mindrecord_would_drop_or_bend_is_refused(tmp_path, change):
    row = dataclasses.replace(make_rows(1)[0], **change)
    with pytest.raises(ArtefactError, match="row"):
        write_shard(tmp_path / shard_name("train", 0, 1), [row], LAYOUT)


def test_an_empty_shard_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="no rows"):
        write_shard(tmp_path / shard_name("train", 0, 1), [], LAYOUT)


@pytest.mark.parametrize("largest", [1, 100_000, 15_000_000, 64 << 20])
@pytest.mark.parametrize("total", [1, 30_000_000, 2 << 30])
def test_layouts_hold_the_largest_row_and_stay_in_mindrecord_s_bounds(largest, total):
    layout = page_layout(largest, max(total, largest))
    assert layout.page_bytes >= largest
    assert 32 * 1024 <= layout.page_bytes <= 256 << 20
    assert 16 * 1024 <= layout.header_bytes <= 128 << 20
    assert layout.page_bytes % 4096 == 0


def test_a_shard_of_imagenet_carries_under_two_percent():
    """A row never spans two pages, so a page loses about 70 kB at its end; two pages are mostly empty at worst."""
    total = 2 << 30
    layout = page_layout(largest_row_bytes=15_500_000, shard_bytes=total)
    pages = total // layout.page_bytes
    assert layout.header_bytes + pages * 70_000 + 2 * layout.page_bytes < 0.02 * total


def test_a_large_row_fits_its_layout(tmp_path):
    rows = [Row(bytes(range(256)) * 12_000, 0, 0, "n00000001_0", 1, 1), *make_rows(3)[1:]]
    path = tmp_path / shard_name("train", 0, 1)
    write_shard(path, rows, page_layout(len(rows[0].image), sum(len(row.image) for row in rows)))
    assert list(read_back(path)) == rows


@pytest.mark.parametrize(("count", "largest"), [(1, 300_000), (3, 300_000), (40, 60_000), (500, 3_000)])
def test_the_size_of_a_shard_is_known_before_it_is_written(count, largest, tmp_path):
    sizes = np.random.default_rng(count).integers(largest // 3, largest, count).tolist()
    rows = [Row(bytes(size), 0, number, f"n00000001_{number}", 1, 1) for number, size in enumerate(sizes)]
    layout = page_layout(max(sizes), sum(sizes))
    path = tmp_path / shard_name("train", 0, 1)
    write_shard(path, rows, layout)
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert expected_shard_bytes(layout, sizes) == pytest.approx(written, rel=0.05)
    assert expected_shard_bytes(layout, []) == 0
