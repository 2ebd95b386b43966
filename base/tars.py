"""The members of a tar, one header at a time, in bounded memory; nothing is ever extracted.

Reads what tar programs have written since 1988: v7, ustar, GNU long names and base-256 sizes, pax (field positions are
those of POSIX.1-2001). A member is a name, a kind and a position: its claims are checked against the end of the tar,
and its name is only compared, never used as a path. Why not `tarfile`: DECISIONS, 2026-11-23.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

BLOCK = 512
_LARGEST_NAME_BYTES = 64 << 10  # Linux allows 4 KiB; a header that claims gigabytes must not fill the memory
_ZERO = bytes(BLOCK)
_OCTAL = re.compile(rb"[0-7]*")
_FILES, _FOLDER, _SPARSE = b"0\0007", b"5", b"S"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_WITHOUT_DATA = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}


class BadTar(Exception):
    """Bytes that are not a tar, or not a whole one; the message is only the reason."""


class Seekable(Protocol):
    """What a tar is read from: a file, or the unpacked content of a gzip file."""

    def seek(self, offset: int, /) -> int:
        """Go to a byte, counted from the beginning, and return its number."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, fewer at the end."""


class Member(NamedTuple):
    """One entry: `kind` is "file", "folder", or another kind in words; its bytes are `size` from byte `offset`."""

    name: str
    kind: str
    offset: int
    size: int


class _Renamed(NamedTuple):
    """What extension headers say about the next member."""

    name: str | None = None
    size: int | None = None
    is_sparse: bool = False


def walk_tar(file: Seekable, begin: int, end: int, needs_end_mark: bool = True) -> Iterator[Member]:
    """Yield the members of the tar at bytes `begin` to `end` of `file`.

    Raises BadTar when a header is invalid or claims more bytes than there are, and, with `needs_end_mark`, when the
    block of zeros that ends a tar is missing.
    """
    position, renamed = begin, _Renamed()
    while position < end or needs_end_mark:
        header = _read(file, position, BLOCK, end, "header")
        if header == _ZERO:
            return
        _check_sum(header, position)
        kind, size = header[156:157], _number(header[124:136])
        offset = position + BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            payload = _extension(file, offset, size, end)
            renamed = _renamed(renamed, kind, payload)
            position = offset + _padded(size)
            continue
        size = 0 if kind in _WITHOUT_DATA or kind == _FOLDER else (size if renamed.size is None else renamed.size)
        if offset + size > end:
            raise BadTar(f"{_name(header)[:80]!r} claims {size} bytes, {max(end - offset, 0)} are left")
        name = renamed.name or _name(header)
        yield Member(name, _kind(kind, name, renamed.is_sparse), offset, size)
        position, renamed = offset + _padded(size), _Renamed()


def _read(file: Seekable, position: int, size: int, end: int, what: str) -> bytes:
    if position + size <= end:
        file.seek(position)
        if len(data := file.read(size)) == size:
            return data
    raise BadTar(f"ends inside a {what}, or before the block of zeros that ends a tar")


def _check_sum(header: bytes, position: int) -> None:
    expected = _number(header[148:156])
    # The checksum is computed with its own field filled with spaces.
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != expected:
        raise BadTar(f"no tar header at byte {position}")


def _number(field: bytes) -> int:
    """Return a number that is in octal, or in base 256 when its first bit is set."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise BadTar("a negative size")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if not _OCTAL.fullmatch(text):
        raise BadTar(f"{text!r} is not an octal number")
    return int(text or b"0", 8)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return _decoded(name)


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _kind(kind: bytes, name: str, is_sparse: bool) -> str:
    if is_sparse or kind == _SPARSE:
        return "a sparse file"
    if kind == _FOLDER or (kind in _FILES and name.endswith("/")):
        return "folder"
    if kind in _FILES:
        return "file"
    return _WITHOUT_DATA.get(kind, f"an entry of type {kind!r}")


def _extension(file: Seekable, offset: int, size: int, end: int) -> bytes:
    if size > _LARGEST_NAME_BYTES:
        raise BadTar(f"a long name of {size} bytes, at most {_LARGEST_NAME_BYTES} are read")
    return _read(file, offset, size, end, "long name")


def _renamed(so_far: _Renamed, kind: bytes, payload: bytes) -> _Renamed:
    if kind == _LONG_NAME:
        return so_far._replace(name=_decoded(payload.partition(b"\0")[0]))
    if kind != _PAX:
        return so_far
    for key, value in _pax_records(payload):
        if key == b"path":
            so_far = so_far._replace(name=_decoded(value))
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:  # 18 digits fit 64 bits
                raise BadTar(f"an invalid pax size, {value[:20]!r}")
            so_far = so_far._replace(size=int(value))
        elif key.startswith(b"GNU.sparse."):
            so_far = so_far._replace(is_sparse=True)
    return so_far


def _pax_records(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of the records "LENGTH KEY=VALUE\\n" of a pax header."""
    position = 0
    while position < len(payload):
        digits, _, _ = payload[position : position + 8].partition(b" ")
        if not digits.isdigit() or not len(digits) < int(digits) <= len(payload) - position:
            raise BadTar("an invalid pax header")
        record = payload[position + len(digits) + 1 : position + int(digits)]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise BadTar("an invalid pax header")
        yield key, value[:-1]
        position += int(digits)
