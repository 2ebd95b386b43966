"""A worker reads exactly what was planned, never blocks, and notices every change."""

import os
import socket
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.classes import ClassRule
from convnext_imagenet.ingest.labels.labels import label_tree
from convnext_imagenet.ingest.shards.plan import PlannedRow, SplitPlan, plan_split
from convnext_imagenet.ingest.shards.source_reader import SourceReader
from convnext_imagenet.ingest.source.layout import scan_tree
from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage


def _row(path: Path, **changes) -> PlannedRow:
    status = path.stat()
    row = PlannedRow(0, path.name, path.stem, 0, status.st_size, modified_ns=status.st_mtime_ns)
    return row._replace(**changes)


def _read(path: Path, row: PlannedRow, **options) -> bytes:
    with SourceReader(path.parent, **options) as reader:
        return reader.read(row)


def _planned(pieces, root: Path) -> SplitPlan:
    tree = label_tree(scan_tree(root), pieces.devkit, ClassRule("found"))
    return plan_split(tree.train, seed=0, is_shuffled=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.JPEG"
    path.write_bytes(b"bytes of an image")
    return path


def test_files_and_members_give_the_same_bytes(pieces, raw_tree: Path, tar_tree: Path):
    plans = [_planned(pieces, root) for root in (raw_tree, tar_tree)]
    contents = []
    for root, plan in zip((raw_tree, tar_tree), plans, strict=True):
        with SourceReader(root) as reader:
            contents.append([reader.read(row) for row in plan.shard_rows(0)])
    assert contents[0] == contents[1]
    assert plans[0].keys == plans[1].keys
    assert not any(row.is_member for row in plans[0].shard_rows(0))
    assert {row.archive for row in plans[1].shard_rows(0)} == {"ILSVRC2012_img_train.tar"}


def test_archive_is_opened_once(pieces, tar_tree: Path, monkeypatch):
    opened: list[str] = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(Path(path).name) or real_open(path, *rest))
    with SourceReader(tar_tree) as reader:
        for row in _planned(pieces, tar_tree).shard_rows(0):
            reader.read(row)
    assert opened.count("ILSVRC2012_img_train.tar") == 2  # once by the scan


def test_few_archives_are_open_at_a_time(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("convnext_imagenet.ingest.shards.source_reader._MOST_OPEN_ARCHIVES", 2)
    for number in range(5):
        (tmp_path / f"{number}.tar").write_bytes(b"%d" % number * 10)
    rows = [PlannedRow(0, f"{number % 5}.tar/x", "x", 0, 3, offset=1) for number in range(12)]
    before = len(list(Path("/proc/self/fd").iterdir()))
    with SourceReader(tmp_path) as reader:
        for row in rows:
            assert reader.read(row) == row.path[:1].encode() * 3
            assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("change", [{"size": 16}, {"size": 18}, {"modified_ns": 1}])
def test_file_that_differs_from_the_plan_stops_the_ingest(image: Path, change):
    assert _read(image, _row(image)) == b"bytes of an image"
    with pytest.raises(IngestError, match=r"image\.JPEG: changed during the ingest"):
        _read(image, _row(image, **change))


def test_same_size_and_unknown_time_is_read(image: Path):
    assert _read(image, _row(image, modified_ns=-1)) == b"bytes of an image"


def test_file_that_changes_while_it_is_read_stops_the_ingest(image: Path, monkeypatch):
    row, real_read = _row(image), os.pread

    def overwrite_and_read(*arguments) -> bytes:
        os.utime(image, ns=(0, row.modified_ns + 1))
        return real_read(*arguments)

    monkeypatch.setattr(os, "pread", overwrite_and_read)
    with pytest.raises(IngestError, match="another modification time"):
        _read(image, row)


@pytest.mark.parametrize("damage", ["touched", "truncated", "replaced by a link"])
def test_archive_that_changes_stops_the_ingest(pieces, tar_tree: Path, damage: str):
    rows = _planned(pieces, tar_tree).shard_rows(0)
    archive = tar_tree / "ILSVRC2012_img_train.tar"
    time = archive.stat().st_mtime_ns
    with SourceReader(tar_tree) as reader:
        if damage == "touched":
            os.utime(archive, ns=(time + 1, time + 1))
        elif damage == "truncated":
            os.truncate(archive, rows[0].offset + 1)
            os.utime(archive, ns=(time, time))
        else:
            archive.unlink()
            archive.symlink_to("nowhere")
        with pytest.raises(IngestError, match=r"ILSVRC2012_img_train\.tar: changed during the ingest"):
            reader.read(rows[0])


def test_short_reads_are_completed(image: Path, monkeypatch):
    real_read = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: real_read(file, min(size, 5), offset))
    assert _read(image, _row(image)) == b"bytes of an image"


@pytest.mark.parametrize("size", [0, 1, 17])
def test_planned_pipe_does_not_block(tmp_path: Path, size: int):
    os.mkfifo(tmp_path / "image.JPEG")
    with pytest.raises(BadImage, match="not_a_file: a pipe"):
        _read(tmp_path / "image.JPEG", PlannedRow(0, "image.JPEG", "image", 0, size))


def test_links_are_bad_images_unless_followed(image: Path):
    link = image.with_name("link.JPEG")
    link.symlink_to(image.name)
    with pytest.raises(BadImage, match="not_a_file: a symbolic link; with --follow-links"):
        _read(link, _row(link))
    assert _read(link, _row(link), follow_links=True) == b"bytes of an image"


@pytest.mark.parametrize("target", ["nowhere", "link.JPEG", ".", "/dev/zero"])
@pytest.mark.parametrize("follow_links", [False, True])
def test_link_that_leads_to_no_file_is_a_bad_image(tmp_path: Path, target: str, follow_links: bool):
    (tmp_path / "link.JPEG").symlink_to(target)
    with pytest.raises(BadImage, match="not_a_file: a symbolic link"):
        _read(tmp_path / "link.JPEG", PlannedRow(0, "link.JPEG", "link", 0, 0), follow_links=follow_links)


def test_socket_is_a_bad_image(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("image.JPEG")
        with pytest.raises(BadImage, match="a socket"):
            _read(tmp_path / "image.JPEG", PlannedRow(0, "image.JPEG", "image", 0, 0))


def test_device_is_never_opened(monkeypatch):
    monkeypatch.setattr(os, "open", lambda *arguments: pytest.fail("opened a device"))
    with pytest.raises(BadImage, match="a device"):
        _read(Path("/dev/null"), PlannedRow(0, "null", "null", 0, 0))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(5, "Input/output error"), "output error"),
    ],
)
def test_unreadable_file_stops_the_ingest_with_the_way_out(image: Path, monkeypatch, error: OSError, message: str):
    def refuse(*_: object) -> int:
        raise error

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(IngestError, match=rf"image\.JPEG: cannot be read \(.*{message}\); fix this and run the same"):
        _read(image, _row(image))


def test_huge_member_is_not_read(tmp_path: Path):
    with (tmp_path / "a.tar").open("wb") as file:
        file.truncate(LARGEST_FILE_BYTES * 2)
    with pytest.raises(BadImage, match="too_large"):
        _read(tmp_path / "a.tar", PlannedRow(0, "a.tar/x", "x", 0, LARGEST_FILE_BYTES + 1, offset=0))


def test_source_is_opened_for_reading_alone(image: Path, monkeypatch):
    flags: list[int] = []
    real_open = os.open
    monkeypatch.setattr(os, "open", lambda path, mode, *rest: flags.append(mode) or real_open(path, mode, *rest))
    _read(image, _row(image))
    assert [flag & os.O_ACCMODE for flag in flags] == [os.O_RDONLY]
    assert all(flag & os.O_NOFOLLOW and flag & os.O_NONBLOCK for flag in flags)
