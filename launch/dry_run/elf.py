"""Reads what a 64-bit shared library needs and offers (System V ABI, chapters 4 and 5). Knows nothing of MindSpore."""

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")
_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_SHT_DYNAMIC, _SHT_DYNSYM = 6, 11
_DT_NEEDED = 1
_WEAK, _HERE = 2, 0  # the binding of a symbol that may stay undefined; the section number of an undefined one


@dataclass(frozen=True)
class Library:
    """A shared library: names of the libraries that it needs, symbols that it defines, symbols that others must define.

    Weak undefined symbols are left out: they may stay undefined.
    """

    needed: tuple[str, ...]
    defined: frozenset[str]
    undefined: frozenset[str]


def read_library(path: Path) -> Library:
    """Return what the library needs and offers. Raises ValueError for another kind of file, OSError when unreadable."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _read(data)
        except (struct.error, IndexError, OverflowError) as error:
            raise ValueError(f"{path}: a damaged ELF file ({error})") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def find_words(path: Path, pattern: bytes) -> set[str]:
    """Return the zero-terminated strings in a file that are matches of `pattern`, from end to end."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return {word.decode("ascii") for word in re.findall(rb"(?<=\0)" + pattern + rb"(?=\0)", data)}


def _read(data: mmap.mmap) -> Library:
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("not a 64-bit little-endian ELF file")
    _, _, _, _, _, _, first, _, _, _, _, size, count, _ = _HEADER.unpack_from(data)
    sections = [_SECTION.unpack_from(data, first + index * size) for index in range(count)]
    needed: list[str] = []
    defined, undefined = set(), set()
    for _, kind, _, _, offset, length, link, _, _, _ in sections:
        if kind not in (_SHT_DYNAMIC, _SHT_DYNSYM):
            continue
        names = data[sections[link][4] : sections[link][4] + sections[link][5]]
        content = data[offset : offset + length]
        if kind == _SHT_DYNAMIC:
            needed += [_text(names, value) for tag, value in _DYNAMIC.iter_unpack(content) if tag == _DT_NEEDED]
            continue
        for name, is_defined, is_weak in _symbols(content, names):
            if is_defined:
                defined.add(name)
            elif not is_weak:
                undefined.add(name)
    return Library(tuple(needed), frozenset(defined), frozenset(undefined) - {""})


def _symbols(content: bytes, names: bytes) -> Iterator[tuple[str, bool, bool]]:
    for name, info, _, section, _, _ in _SYMBOL.iter_unpack(content):
        yield _text(names, name), section != _HERE, info >> 4 == _WEAK


def _text(names: bytes, start: int) -> str:
    return names[start : names.index(b"\0", start)].decode("ascii", "replace")
