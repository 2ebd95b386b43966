"""The members of a zip, read in place: names and positions from its directory, one member's bytes from its position.

Nothing is extracted to disk. The directory is read by Python's `zipfile`; a single member by its own header (field
positions are those of APPNOTE.TXT 6.3, section 4.3), so that a process which reads one image need not read a directory
of a million. A member's claims are checked: its size while it is unpacked, its CRC-32 afterwards.
"""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from convnext_imagenet.base.tars import Member

_HEADER = struct.Struct("<4s2xHH4xI8xHH")  # signature, flags, method, CRC-32, length of name, length of extra fields
_SIGNATURE, _DESCRIPTOR_SIGNATURE = b"PK\3\4", b"PK\7\x08"
_ENCRYPTED, _SIZES_FOLLOW, _IS_UTF8 = 0x1, 0x8, 0x800  # bits of the flags
_STORED, _DEFLATED = 0, 8
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_UNIX = 3
_CHUNK_BYTES = 1 << 20


class BadZip(Exception):
    """Bytes that are not a zip, not a whole one, or one that is not read in place; the message is only the reason."""


def walk_zip(file: BinaryIO) -> Iterator[Member]:
    """Yield the members of a zip; `offset` is the position of a member's header, `size` that of its unpacked bytes.

    Names have simple slashes. Raises BadZip for a directory that is damaged or missing, for members that overlap, as in
    a zip bomb, for names in an unknown encoding, and for members that are encrypted or packed in a rare way.
    """
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as error:
        raise BadZip(f"damaged or truncated, without a whole directory at its end ({str(error)[:100]})") from None
    _refuse_overlaps(entries)
    for entry in entries:
        name = _name(entry)
        kind = _kind(entry)
        if kind == "file":
            _refuse_unreadable(entry, name)
        yield Member(name, kind, entry.header_offset, entry.file_size)


def read_member(descriptor: int, offset: int, size: int) -> bytes:
    """Return the `size` bytes of the member whose header is at `offset`.

    Raises BadZip when they are not there: another size, a CRC-32 that differs, or bytes that cannot be unpacked. At
    most `size` + 1 bytes are unpacked, whatever the member claims. Raises OSError as `os.pread` does.
    """
    header = os.pread(descriptor, _HEADER.size, offset)
    if len(header) < _HEADER.size or not header.startswith(_SIGNATURE):
        raise BadZip(f"no header of a member at byte {offset}")
    _, flags, method, crc, *lengths = _HEADER.unpack(header)
    begin = offset + _HEADER.size + sum(lengths)
    if method == _STORED:
        data = _read_stored(descriptor, begin, size)
        end = begin + size
    elif method == _DEFLATED:
        data, end = _inflate(descriptor, begin, size)
    else:
        raise BadZip(f"packed by {_METHODS.get(method, f'method {method}')}")
    if len(data) != size:
        raise BadZip(f"unpacks to {'more' if len(data) > size else 'fewer'} than the {size} bytes that the zip states")
    expected = _crc_behind(descriptor, end) if flags & _SIZES_FOLLOW and not crc else {crc}
    if zlib.crc32(data) not in expected:
        raise BadZip("its CRC-32 differs from the one that the zip states")
    return data


def _read_stored(descriptor: int, begin: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.pread(descriptor, size - len(data), begin + len(data))):
        data += more
    return data


def _inflate(descriptor: int, begin: int, size: int) -> tuple[bytes, int]:
    """Return at most `size` + 1 unpacked bytes, and the position behind the packed ones."""
    unpacker, position, parts, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), begin, [], 0
    try:
        while not unpacker.eof and unpacked <= size:
            packed = unpacker.unconsumed_tail
            if not packed:
                packed = os.pread(descriptor, min(_CHUNK_BYTES, size + 1024), position)
                position += len(packed)
            part = unpacker.decompress(packed, size + 1 - unpacked)
            if not packed and not part:
                break  # the file ends here
            parts.append(part)
            unpacked += len(part)
    except zlib.error as error:
        raise BadZip(f"cannot be unpacked ({error})") from None
    return b"".join(parts), position - len(unpacker.unused_data)


def _crc_behind(descriptor: int, end: int) -> set[int]:
    """Return the CRC-32 in the descriptor behind a member's bytes, which may begin with a signature or not."""
    behind = os.pread(descriptor, 8, end).ljust(8, b"\0")
    first, second = struct.unpack("<II", behind)
    return {first, second} if behind.startswith(_DESCRIPTOR_SIGNATURE) else {first}


def _name(entry: zipfile.ZipInfo) -> str:
    """Return the name as UTF-8, which many programs write without saying so; backslashes of Windows become slashes."""
    name = entry.filename
    if not entry.flag_bits & _IS_UTF8:
        try:
            name = name.encode("cp437").decode()
        except UnicodeDecodeError:
            raise BadZip(
                f"the name {name[:80]!a} is in an old encoding that the zip does not state (unzip -O CP936 unpacks "
                f"names in Chinese, -O CP850 those of Western Windows)"
            ) from None
    return name if "/" in name else name.replace("\\", "/")


def _kind(entry: zipfile.ZipInfo) -> str:
    mode = entry.external_attr >> 16 if entry.create_system == _UNIX else 0
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "folder" if entry.filename.endswith(("/", "\\")) else "file"


def _refuse_unreadable(entry: zipfile.ZipInfo, name: str) -> None:
    if entry.flag_bits & _ENCRYPTED:
        raise BadZip(f"{name[:200]!a} is encrypted")
    if entry.compress_type not in (_STORED, _DEFLATED):
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        raise BadZip(f"{name[:200]!a} is packed by {method}, and only stored and deflated members are read")


def _refuse_overlaps(entries: list[zipfile.ZipInfo]) -> None:
    end, before = 0, ""
    for entry in sorted(entries, key=lambda each: each.header_offset):
        if entry.header_offset < end:
            raise BadZip(f"{entry.filename[:80]!a} overlaps {before[:80]!a}, as in a zip bomb")
        end = entry.header_offset + _HEADER.size + entry.compress_size
        before = entry.filename
