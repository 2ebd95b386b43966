"""A tar is read only as far as its headers are valid and its claims are true."""

import io
import tarfile
import tracemalloc
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from convnext_imagenet.base.tars import BLOCK, BadTar, Member, walk_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def _info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def _tar(members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _walk(data: bytes, **options) -> list[Member]:
    return list(walk_tar(io.BytesIO(data), 0, len(data), **options))


def _header(name: str = "a", size: bytes = b"00000000000\0", kind: bytes = b"0") -> bytes:
    """A ustar header with any bytes as its size, and the right check sum."""
    block = bytearray(_info(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157], block[148:156] = size, kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", ["a.JPEG", "folder/a.JPEG", "f" * 90 + "/" + "g" * 60, "é.JPEG"])
def test_every_common_format_is_read(form: int, name: str):
    contents = [b"x" * size for size in (0, 1, 511, 512, 513, 5000)]
    data = _tar([(_info(f"{name}{n}", len(content)), content) for n, content in enumerate(contents)], form)
    members = _walk(data)
    assert [member.name for member in members] == [f"{name}{n}" for n in range(len(contents))]
    assert [data[m.offset : m.offset + m.size] for m in members] == contents
    assert {member.kind for member in members} == {"file"}


@pytest.mark.parametrize("name", ["l" * 150, "l" * 300, "日本" * 60])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_name_is_read_whole(form: int, name: str):
    members = _walk(_tar([(_info(name, 3), b"abc"), (_info("next", 1), b"x")], form))
    assert [member.name for member in members] == [name, "next"]


def test_places_are_those_that_tarfile_finds():
    data = _tar([(_info(f"n{n}" * (n + 1), n * 100), b"y" * n * 100) for n in range(40)])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar]
    assert [(member.name, member.offset, member.size) for member in _walk(data)] == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.DIRTYPE, "folder"),
        (tarfile.CONTTYPE, "file"),
        (b"M", "an entry of type b'M'"),
    ],
)
def test_what_is_no_file_is_named(kind: bytes, expected: str):
    members = _walk(_tar([(_info("a", kind=kind, linkname="/etc/passwd"), b""), (_info("b", 1), b"x")]))
    assert [member.kind for member in members] == [expected, "file"]


def test_folder_of_the_oldest_format_is_known_by_its_slash():
    assert _walk(_header("folder/", kind=b"\0") + bytes(1024))[0].kind == "folder"


def test_sparse_files_are_named():
    old = _header("a", kind=b"S") + bytes(1024)
    pax = _tar([(_info("a", 1, pax_headers={"GNU.sparse.major": "1"}), b"x")], tarfile.PAX_FORMAT)
    assert [_walk(data)[0].kind for data in (old, pax)] == ["a sparse file"] * 2


def test_inner_tar_is_walked_where_it_lies():
    inner = _tar([(_info("image", 5), b"12345")])
    outer = _tar([(_info("before", 3), b"abc"), (_info("inner.tar", len(inner)), inner)])
    place = _walk(outer)[1]
    (image,) = walk_tar(io.BytesIO(outer), place.offset, place.offset + place.size)
    assert (image.name, outer[image.offset : image.offset + image.size]) == ("image", b"12345")


@pytest.mark.parametrize("cut", [*range(0, 3 * BLOCK, 64), 3 * BLOCK + 1])
def test_cut_tar_is_refused(cut: int):
    whole = _tar([(_info("a", 600), b"x" * 600)])[: 5 * BLOCK]
    assert len(_walk(whole)) == 1
    with pytest.raises(BadTar):
        _walk(whole[:cut])


def test_end_mark_may_be_missing_only_when_that_is_said():
    whole = _tar([(_info("a", 512), b"x" * 512)])[: 2 * BLOCK]
    assert len(_walk(whole, needs_end_mark=False)) == 1
    with pytest.raises(BadTar, match="before the block of zeros"):
        _walk(whole)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (b"00000001001\0", "'a' claims 513 bytes, 512 are left"),
        (b"77777777777\0", "claims 8589934591 bytes"),
        (b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7, "claims .* bytes, 512 are left"),
        (b"\xff" * 12, "a negative size"),
        (b"0000000000x\0", "is not an octal number"),
        (b"-0000000001\0", "is not an octal number"),
    ],
)
def test_size_that_lies_is_refused(size: bytes, message: str):
    with pytest.raises(BadTar, match=message):
        _walk(_header(size=size) + bytes(BLOCK))


@pytest.mark.parametrize("kind", [b"L", b"x", b"K", b"g"])
def test_huge_long_name_is_not_read(kind: bytes):
    with pytest.raises(BadTar, match="a long name of 1073741824 bytes"):
        _walk(_header(size=b"10000000000\0", kind=kind) + bytes(BLOCK))


@pytest.mark.parametrize("payload", [b"x", b"99999 a=b\n", b"5 a=b", b"0 a=b\n", b"5 ab\n\n", b"\0" * 30, b"7 path\n"])
def test_invalid_pax_header_is_refused(payload: bytes):
    data = _header(size=b"%011o\0" % len(payload), kind=b"x") + payload.ljust(BLOCK, b"\0") + bytes(BLOCK)
    with pytest.raises(BadTar, match="invalid pax header"):
        _walk(data)


@pytest.mark.parametrize(
    ("record", "message"),
    [(b"21 size=999999999999\n", "claims 999999999999 bytes"), (b"11 size=-1\n", "an invalid pax size")],
)
def test_pax_size_is_checked_too(record: bytes, message: str):
    data = _header(size=b"%011o\0" % len(record), kind=b"x") + record.ljust(BLOCK, b"\0") + _header() + bytes(BLOCK)
    with pytest.raises(BadTar, match=message):
        _walk(data)


@pytest.mark.parametrize("byte", [0, 100, 130, 150, 300])
def test_damaged_header_is_refused(byte: int):
    data = bytearray(_tar([(_info("a", 3), b"abc"), (_info("b", 3), b"abc")]))
    data[2 * BLOCK + byte] ^= 0x41
    with pytest.raises(BadTar):
        _walk(bytes(data))


@pytest.mark.parametrize("data", [b"<html>not found</html>".ljust(4096), b"\xff" * 4096, b""])
def test_what_is_no_tar_is_refused(data: bytes):
    with pytest.raises(BadTar):
        _walk(data)


class _Endless(io.RawIOBase):
    """A tar of `count` folders that exists nowhere."""

    def __init__(self, count: int) -> None:
        self.header, self.end, self.position = _header("d/", kind=b"5"), count * BLOCK, 0

    def seek(self, position: int, whence: int = 0) -> int:
        self.position = position
        return position

    def read(self, size: int = -1) -> bytes:
        return self.header if self.position < self.end else bytes(size)


def _endless(count: int) -> tuple[BinaryIO, int]:
    return _Endless(count), (count + 2) * BLOCK  # type: ignore[return-value]


def test_memory_does_not_grow_with_the_members():
    file, end = _endless(20_000)
    tracemalloc.start()
    walk: Iterator[Member] = walk_tar(file, 0, end)
    count = sum(1 for _ in walk)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak_bytes < 100_000
