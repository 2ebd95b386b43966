"""Holes of zeros in the content of a JPEG, as a bad copy leaves them; libjpeg does not always notice one.

Zeros are valid codes. In a sequential JPEG whose shortest code of a table is not the end of a block, a long run of
them is at least one block in which every coefficient has the same smallest value, and no encoder makes that of an
image. Pure: bytes in, a position out.
"""

import re
from collections.abc import Iterator

LEAST_HOLE_BYTES = 256  # holds a whole block of each component of the largest MCU
_ZEROS = bytes(LEAST_HOLE_BYTES)
_SEQUENTIAL, _HUFFMAN, _SCAN = (0xC0, 0xC1), 0xC4, 0xDA
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xDA))
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_BLOCK = 0
_STANDARD = {0: 1, 1: _END_OF_BLOCK}  # symbols of the code 00 in the tables of Motion JPEG, which leaves them out


def find_hole(data: bytes) -> int | None:
    """Return the position of the first hole in the content of a JPEG with a valid header, None if there is none."""
    if data.find(_ZEROS, data.find(b"\xff\xda")) < 0:
        return None
    symbols, is_sequential = dict(_STANDARD), False
    for marker, body, begin, end in _segments(data):
        if marker in _SEQUENTIAL:
            is_sequential = True
        elif marker == _HUFFMAN:
            symbols |= _shortest_symbols(body)
        elif marker == _SCAN and is_sequential:
            tables = [selector & 15 for selector in body[2::2][: body[0]]]
            at = data.find(_ZEROS, begin, end)
            if at >= 0 and any(symbols.get(table, _END_OF_BLOCK) != _END_OF_BLOCK for table in tables):
                return at
    return None


def _shortest_symbols(body: bytes) -> dict[int, int]:
    """Return the symbol of the shortest code, all zeros, of each AC table in a segment, by the table's number."""
    symbols, position = {}, 0
    while position + 17 < len(body):
        kind, count = body[position], sum(body[position + 1 : position + 17])
        if kind >> 4 == 1:
            symbols[kind & 15] = body[position + 17]
        position += 17 + count
    return symbols


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield marker and content of each segment, and begin and end of what follows it: the coded bytes of a scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        begin = end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SCAN:
            following = _AFTER_SCAN.search(data, begin)
            end = following.start() if following else len(data)
        yield marker, data[position + 4 : begin], begin, end
        position = end
