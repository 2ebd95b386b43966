"""What is unpacked beside RECORDS: progress in bytes of the source, and nothing of a file that is not whole."""

import contextlib
import errno
import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import FailedIngestError, IngestError
from convnext_imagenet.ingest.source.detect import scan_data
from convnext_imagenet.ingest.source.unpack import OnProgress, Unpacker

from ..own_images import FORMS, add, make_images


@pytest.mark.parametrize(("form", "pattern"), [("parquet", "*.parquet"), ("tar.gz", "*.tar.gz")])
def test_progress_adds_up_to_the_bytes_of_each_file(form: str, pattern: str, tmp_path: Path):
    FORMS[form](tmp_path / "data", make_images(600))
    seen: dict[str, list[int]] = {}

    @contextlib.contextmanager
    def watch(name: str, size: int) -> Iterator[OnProgress]:
        counts = seen[name] = [size]
        yield counts.append

    scan_data(tmp_path / "data", Unpacker(tmp_path / "unpacked", watch))
    files = {path.relative_to(tmp_path / "data").as_posix(): path for path in (tmp_path / "data").rglob(pattern)}
    assert seen.keys() == files.keys()
    for name, (size, *counts) in seen.items():
        assert size == files[name].stat().st_size == sum(counts)


def test_nothing_stays_of_a_file_that_cannot_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "whole.tar.gz").write_bytes(gzip.compress(b"x" * 1000))
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    unpacker = Unpacker(tmp_path / "unpacked")
    with pytest.raises(IngestError, match=r"cut\.tar\.gz: damaged or truncated"):
        unpacker.tar_of(tmp_path, "cut.tar.gz")
    assert not unpacker.folder.exists()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FailedIngestError, match=r"whole\.tar\.gz\.tar: cannot be written .*No space left"):
        unpacker.tar_of(tmp_path, "whole.tar.gz")
    assert not unpacker.folder.exists()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "a/1.jpg", b"")
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/1.jpg", b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.tar", gzip.compress(_tar()), r"a\.tar: not what its name says, but a gzip file; rename .* in \.tar\.gz"),
        ("a.tar", _zip(), r"not what its name says, but a zip; rename it to end in \.zip"),
        ("a.tar.gz", _tar(), r"not what its name says, but a tar; rename it to end in \.tar"),
        ("a.zip", b"<!DOCTYPE html>", r"but an HTML page, such as one to log in: download the archive itself"),
        ("a.tgz", b"\xfd7zXZ\0", r"but an xz file: unpack it, and pass the folder"),
        ("a.tar", b"version https://git-lfs.github.com/spec/v1\n", r"a pointer of Git LFS: run `git lfs pull`"),
        ("a.tar", _tar()[:100], r"a\.tar: damaged or truncated"),
        ("a.zip", _zip()[:-9], r"a\.zip: damaged or truncated"),
    ],
)
def test_an_archive_that_is_not_what_its_name_says_is_called_what_it_is(
    name: str, data: bytes, message: str, tmp_path: Path
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(data)
    with pytest.raises(IngestError, match=message):
        scan_data(tmp_path / "data", Unpacker(tmp_path / "unpacked"))
