"""Pages that MindSpore wrote, read without it: equal for every page size; damage is refused."""

import json
import random
import sqlite3
from pathlib import Path

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.stores import local_reader
from convnext_imagenet.records.mindrecord_file import MindRecordFile
from convnext_imagenet.records.page_sizes import PageLayout
from convnext_imagenet.records.schema import Row
from convnext_imagenet.records.shards import read_back, write_shard

KIB = 1 << 10
NUMBERS = (0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1)
KEYS = ("a", "k" * 31, "k" * 32, "é" * 130, "k" * 40_000, "n01440764_10026")


def rows_of(sizes: list[int]) -> list[Row]:
    """Rows whose images, numbers and texts take every form that the format has for them."""
    drawn = random.Random(0)
    return [
        Row(
            image=drawn.randbytes(size),
            label=NUMBERS[number % len(NUMBERS)],
            sample_id=(*NUMBERS, 2**32, 2**63 - 1)[number % 11],
            key=f"{KEYS[number % len(KEYS)]}{number}",
            height=1 + number,
            width=max(1, NUMBERS[-1 - number % len(NUMBERS)]),
        )
        for number, size in enumerate(sizes)
    ]


def opened(path: Path, index: bytes | None = None) -> MindRecordFile:
    index = path.with_name(f"{path.name}.db").read_bytes() if index is None else index
    return MindRecordFile(path.name, local_reader(path), path.stat().st_size, index)


LAYOUTS = {
    "one page": ([1, 2, 3], 16, 256),
    "many images a page": ([20 * KIB] * 150, 64, 256),
    "one image a page": ([200 * KIB] * 9, 16, 256),
    "images as large as a page": ([256 * KIB - 8, 5, 256 * KIB - 8], 16, 256),
    "all sizes": ([*range(1, 60), *range(1000, 200_000, 7919)], 128, 512),
    "several pages of scalars": ([7] * 400, 64, 256),
    "one row": ([70_000], 16, 320),
}


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shard") / "imagenet-train-00000-of-00001.mindrecord"
    write_shard(path, rows_of([9000] * 60), PageLayout(16 * KIB, 256 * KIB))
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_those_that_mindspore_wrote_and_reads(tmp_path, name):
    sizes, header_kib, page_kib = LAYOUTS[name]
    rows, path = rows_of(sizes), tmp_path / "imagenet-train-00000-of-00001.mindrecord"
    write_shard(path, rows, PageLayout(header_kib * KIB, page_kib * KIB))
    file = opened(path)
    found = [file.row(number) for number in range(len(file))]
    assert found == rows
    assert found == list(read_back(path))
    assert file.sizes.tolist() == sizes
    assert file.labels.tolist() == [row.label for row in rows]


@pytest.mark.parametrize(("column", "is_mindspores"), [("ROW_GROUP_ID", True), ("PAGE_ID_BLOB", False)])
def test_mindspore_finds_an_image_by_another_column_than_this_reader(tmp_path, column: str, is_mindspores: bool):
    """So neither reader proves what the other one reads, and a build reads back by MindSpore's."""
    path, rows = tmp_path / "imagenet-train-00000-of-00001.mindrecord", rows_of([200 * KIB] * 9)
    write_shard(path, rows, PageLayout(16 * KIB, 256 * KIB))
    index = sqlite3.connect(path.with_name(f"{path.name}.db"))
    index.execute(f"UPDATE INDEXES SET {column} = {column} + 1 WHERE ROW_ID = 3")
    index.commit()
    index.close()
    assert (list(read_back(path)) != rows) == is_mindspores
    file = opened(path)
    assert ([file.row(number) for number in range(len(file))] != rows) != is_mindspores


def with_header(shard: Path, change) -> bytes:
    data = shard.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + len(text) :]


HEADERS = {
    "version is '4.0'": lambda header: header.update(version="4.0"),
    "compression_size is 1": lambda header: header.update(compression_size=1),
    "shard_addresses is": lambda header: header.update(shard_addresses=["other.mindrecord"]),
    "blob_fields is": lambda header: header["schema"][0].update(blob_fields=["image", "mask"]),
    "fields is": lambda header: header["schema"][0]["schema"].pop("key"),
    "KeyError": lambda header: header.pop("page"),
    "pages of 0 bytes": lambda header: header.update(page_size=0),
    "no BLOB_DATA pages|not BLOB_DATA pages": lambda header: header.update(page=header["page"][1:]),
    "outside of its page": lambda header: header.update(page_size=300 * KIB),
}


@pytest.mark.parametrize("message", HEADERS)
def test_a_header_of_another_kind_is_refused(shard, tmp_path, message):
    path = tmp_path / shard.name
    path.write_bytes(with_header(shard, HEADERS[message]))
    with pytest.raises(ArtefactError, match=message):
        opened(path, shard.with_name(f"{shard.name}.db").read_bytes())


def test_a_shard_whose_writer_was_killed_is_refused(shard, tmp_path):
    path = tmp_path / shard.name
    path.write_bytes(bytes(16 * KIB))
    with pytest.raises(ArtefactError, match="a writer that was killed leaves 0"):
        opened(path, b"")


INDEXES = {
    "not numbered": "DELETE FROM INDEXES WHERE ROW_ID = 3",
    "no rows": "DELETE FROM INDEXES",
    "row 5 lies outside": "UPDATE INDEXES SET PAGE_OFFSET_BLOB_END = 999999999 WHERE ROW_ID = 5",
    "row 6 lies outside": "UPDATE INDEXES SET PAGE_OFFSET_BLOB = -1 WHERE ROW_ID = 6",
    "row 7 lies outside": "UPDATE INDEXES SET PAGE_OFFSET_RAW_END = PAGE_OFFSET_RAW WHERE ROW_ID = 7",
    "not BLOB_DATA pages": "UPDATE INDEXES SET PAGE_ID_BLOB = 77 WHERE ROW_ID = 8",
    "not a whole number": "UPDATE INDEXES SET PAGE_OFFSET_BLOB = 'x' WHERE ROW_ID = 9",
    "the index of": "UPDATE SHARD_NAME SET NAME = 'other'",
    "no such table": "DROP TABLE INDEXES",
}


@pytest.mark.parametrize("message", INDEXES)
def test_an_index_that_leads_elsewhere_is_refused(shard, tmp_path, message):
    index = tmp_path / "index.db"
    index.write_bytes(shard.with_name(f"{shard.name}.db").read_bytes())
    with sqlite3.connect(index) as connection:
        connection.execute(INDEXES[message])
    connection.close()
    with pytest.raises(ArtefactError, match=rf"{shard.name}\.db.*{message}"):
        opened(shard, index.read_bytes())


def test_any_damage_of_the_index_is_refused_or_leaves_an_index(shard):
    """MindSpore ends with SIGSEGV for some of these."""
    whole = shard.with_name(f"{shard.name}.db").read_bytes()
    expected = opened(shard)
    drawn, refused = random.Random(1), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(drawn.choice((1, 8, 200))):
            damaged[drawn.randrange(len(damaged))] = drawn.randrange(256)
        try:
            found = opened(shard, bytes(damaged[: drawn.choice((len(whole), len(whole) // 2))]))
        except ArtefactError:
            refused += 1
        else:
            assert len(found) == len(expected)
    assert refused > 50


def test_a_shorter_shard_is_refused(shard, tmp_path):
    path = tmp_path / shard.name
    path.write_bytes(shard.read_bytes()[:300_000])
    with pytest.raises(ArtefactError, match="lies outside"):
        opened(path, shard.with_name(f"{shard.name}.db").read_bytes())
