"""Numbered files of one set, such as train-00001-of-00003.parquet: a set that lacks some is refused. Pure: names in."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from convnext_imagenet.ingest.errors import IngestError, first_few

_PART = re.compile(r"(.*-)([0-9]{1,9})-of-([0-9]{1,9})(-[0-9a-f]+)?(\.[A-Za-z.]+)")  # Hugging Face adds a hash


def require_all_parts(root: Path, names: Iterable[str]) -> None:
    """Raise IngestError when names of files below `root` state a number of files, and some of these are not there."""
    found: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for name in names:
        if match := _PART.fullmatch(name):
            found[match[1], match[3], match[5]].add(int(match[2]))
    for (begin, total, ending), numbers in found.items():
        count = int(total)
        if len(numbers) >= count:
            continue
        first = int(0 not in numbers and count in numbers)
        missing = (number for number in range(first, count + first) if number not in numbers)
        named = [f"{begin}{number:0{len(total)}}-of-{total}" for number, _ in zip(missing, range(4), strict=False)]
        raise IngestError(
            f"{root}: {len(numbers):,} of {count:,} files {begin}*-of-{total}{ending} are there, without "
            f"{first_few(named)}; download these too, or rename the others to use only them"
        )
