"""The EXIF orientation of a JPEG or PNG: how a viewer turns it. Trainers ignore it, so scoring does, by default."""

import struct

import numpy as np

_SOS, _APP1 = 0xDA, 0xE1
_TAG, _SHORT = 0x0112, 3
_MOST_ENTRIES = 1000  # of the first directory; cameras write some dozens
_TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


def orientation_of(data: bytes) -> int | None:
    """Return the orientation, 1 to 8, that the EXIF data of a JPEG or PNG state, or None."""
    exif = _png_exif(data) if data.startswith(b"\x89PNG") else _jpeg_exif(data)
    return _orientation_in(exif) if exif else None


def turned(pixels_HWC: np.ndarray, orientation: int | None) -> np.ndarray:
    """Return pixels as a viewer shows them."""
    turn = _TURNS.get(orientation or 1)
    return pixels_HWC if turn is None else np.ascontiguousarray(turn(pixels_HWC))


def _jpeg_exif(data: bytes) -> bytes | None:
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if marker == _APP1 and body.startswith(b"Exif\0\0"):
            return body[6:]
        if marker == _SOS or length < 2:
            return None
        position += 2 + length
    return None


def _png_exif(data: bytes) -> bytes | None:
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == b"eXIf":
            return data[position + 8 : position + 8 + length]
        if kind == b"IEND":
            return None
        position += 12 + length
    return None


def _orientation_in(exif: bytes) -> int | None:
    """Return the orientation in the first directory of a TIFF structure."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (first,) = struct.unpack(f"{order}I", exif[4:8])
    if first + 2 > len(exif):
        return None
    (entries,) = struct.unpack(f"{order}H", exif[first : first + 2])
    for number in range(min(entries, _MOST_ENTRIES)):
        entry = exif[first + 2 + 12 * number : first + 14 + 12 * number]
        if len(entry) < 12:
            return None
        tag, kind, count, value = struct.unpack(f"{order}HHIH", entry[:10])
        if tag == _TAG:
            return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else None
    return None
