"""What a file is that has the name of an archive and cannot be read as one: told by its first bytes."""

import re
from pathlib import Path

_LONGEST_START = 512  # a tar says at byte 257 that it is one
_TO_UNPACK = "unpack it, and pass the folder"
_KINDS = (
    (rb"\x1f\x8b", "a gzip file", (".tar.gz", ".tgz")),
    (rb"PK(\x03\x04|\x05\x06)", "a zip", (".zip",)),
    (rb".{257}ustar", "a tar", (".tar",)),
    (rb"BZh", f"a bzip2 file: {_TO_UNPACK}", ()),
    (rb"\xfd7zXZ\0", f"an xz file: {_TO_UNPACK}", ()),
    (rb"\x28\xb5\x2f\xfd", f"a zstd file: {_TO_UNPACK}", ()),
    (rb"7z\xbc\xaf\x27\x1c", f"a 7z archive: {_TO_UNPACK}", ()),
    (rb"Rar!", f"a RAR archive: {_TO_UNPACK}", ()),
    (rb"(?i)\s*(<!doctype html|<html)", "an HTML page, such as one to log in: download the archive itself", ()),
    (rb"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull`", ()),
)


def another_kind(path: Path, name: str) -> str:
    """Return what the file at `path`, which is called `name`, is instead of what its name says, and what to do.

    Empty when its first bytes do not tell. Raises OSError as `open` does.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST_START)
    for pattern, words, endings in _KINDS:
        if re.match(pattern, start, re.DOTALL):
            if name.lower().endswith(endings):
                return ""
            return f"{words}; rename it to end in {endings[0]}" if endings else words
    return ""
