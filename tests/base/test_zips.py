"""A zip is read in place: names and positions from its directory, each member's bytes checked by size and CRC-32."""

import io
import os
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from convnext_imagenet.base.tars import Member
from convnext_imagenet.base.zips import BadZip, read_member, walk_zip

NOISE = random.Random(0).randbytes(5000)
CONTENTS = {"a/noise.jpg": NOISE, "a/text.jpg": b"x" * 300_000, "a/empty.jpg": b"", "a/one.jpg": b"1"}


class _Stream(io.RawIOBase):
    """A file that cannot seek, so that sizes and CRC-32 follow the bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += data
        return len(data)


def _zip(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, streamed: bool = False) -> Path:
    target = _Stream() if streamed else path
    with zipfile.ZipFile(target, "w", method) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    if streamed:
        path.write_bytes(target.data)
    return path


def _walk(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return list(walk_zip(file))


def _read(path: Path, member: Member) -> bytes:
    with path.open("rb") as file:
        return read_member(file.fileno(), member.offset, member.size)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_member_is_read_in_place(tmp_path: Path, method: int, streamed: bool):
    path = _zip(tmp_path / "a.zip", CONTENTS, method, streamed)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())  # bytes before it, as in an archive that unpacks itself
    assert {member.name: _read(path, member) for member in _walk(path)} == CONTENTS


def test_a_zip_with_64_bit_fields_is_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in CONTENTS.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
    assert {member.name: _read(tmp_path / "a.zip", member) for member in _walk(tmp_path / "a.zip")} == CONTENTS


def _patched(offset: int, form: str, value: int) -> Callable[[bytearray], None]:
    """Return what changes a field of the first entry of the directory."""

    def patch(data: bytearray) -> None:
        struct.pack_into(form, data, data.index(b"PK\1\2") + offset, value)

    return patch


def test_names_are_utf_8_whether_stated_or_not_and_have_simple_slashes(tmp_path: Path):
    path = _zip(tmp_path / "a.zip", {"ä/1.jpg": b"1", r"b\c\2.jpg": b"2"})
    data = bytearray(path.read_bytes())
    assert data[data.index(b"PK\1\2") + 9] == 8, "the first name is marked as UTF-8"
    _patched(8, "<H", 0)(data)
    path.write_bytes(data)
    assert [member.name for member in _walk(path)] == ["ä/1.jpg", "b/c/2.jpg"]


def _old_name(data: bytearray) -> None:
    data[:] = data.replace(b"a/noise.jpg", "犬/犬12.jpg".encode("cp932"))


def _overlap(data: bytearray) -> None:
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    struct.pack_into("<I", data, second + 42, 10)


WHOLE_ZIP_IS_BAD = {
    "truncated": (lambda data: data.__delitem__(slice(len(data) // 2, None)), "without a whole directory at its end"),
    "empty": (lambda data: data.clear(), "without a whole directory at its end"),
    "encrypted": (_patched(8, "<H", 1), "'a/noise.jpg' is encrypted"),
    "bzip2": (_patched(10, "<H", 12), "packed by bzip2, and only stored and deflated"),
    "Deflate64": (_patched(10, "<H", 9), "packed by Deflate64"),
    "unknown method": (_patched(10, "<H", 77), "packed by method 77"),
    "an old encoding": (_old_name, "is in an old encoding that the zip does not state"),
    "a bomb of one content for many names": (_overlap, "overlaps .*, as in a zip bomb"),
}


@pytest.mark.parametrize("case", WHOLE_ZIP_IS_BAD)
def test_a_zip_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, case: str):
    damage, message = WHOLE_ZIP_IS_BAD[case]
    data = bytearray(_zip(tmp_path / "a.zip", CONTENTS).read_bytes())
    damage(data)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BadZip, match=message):
        _walk(tmp_path / "a.zip")


def test_links_and_folders_are_named(tmp_path: Path):
    link = zipfile.ZipInfo("a/link.jpg")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.mkdir("a")
        file.writestr(link, "noise.jpg")
    assert [member.kind for member in _walk(tmp_path / "a.zip")] == ["folder", "a symbolic link"]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_changed_byte_of_a_member_is_taken_for_its_content(tmp_path: Path, method: int):
    path = _zip(tmp_path / "a.zip", {"a.jpg": NOISE[:300]}, method)
    (member,) = _walk(path)
    whole = path.read_bytes()
    begin = 30 + len("a.jpg")
    wrong = []
    for position in range(begin, whole.index(b"PK\1\2")):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            if _read(path, member) != NOISE[:300]:
                wrong.append(position)
        except BadZip:
            continue
        assert method == zipfile.ZIP_DEFLATED, "every byte of a stored member counts"
    assert wrong == []


def test_a_bomb_is_unpacked_only_as_far_as_it_claims(tmp_path: Path):
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = packed.compress(bytes(200 << 20)) + packed.flush()
    header = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(stream), 1000, 1, 0)
    (tmp_path / "a.zip").write_bytes(header + b"a" + stream)
    descriptor = os.open(tmp_path / "a.zip", os.O_RDONLY)
    tracemalloc.start()
    with pytest.raises(BadZip, match="unpacks to more than the 1000 bytes"):
        read_member(descriptor, 0, 1000)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    os.close(descriptor)


@pytest.mark.parametrize(("offset", "size", "message"), [(5, 5000, "no header"), (0, 6000, "fewer than the 6000")])
def test_a_wrong_position_or_size_is_refused(tmp_path: Path, offset: int, size: int, message: str):
    path = _zip(tmp_path / "a.zip", CONTENTS)
    with pytest.raises(BadZip, match=message):
        _read(path, Member("", "file", offset, size))
