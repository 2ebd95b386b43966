"""What a source of somebody's own images yields: one list of samples, whatever the layout. Knows nothing of indices.

A sample says where its bytes lie, and what the source states about it: label, split, group. Nothing is decided here.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.scan_types import EntryCount, printable

SPLITS = ("train", "val", "test")
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_WORD = re.compile(r"(?:^|[-_.])(" + "|".join(_SPLIT_OF_WORD) + r")(?=$|[-_.0-9])", re.IGNORECASE)


class Sample(NamedTuple):
    """One image of a source.

    `path` is below DATA, and continues inside a container; `where` is what messages call it, the path if empty. `label`
    is the name of its class, empty if the source states none; `split` is one of SPLITS, empty if none was made. `group`
    holds what belongs together, such as the images of one patient. `container` is the file that holds the bytes from
    byte `offset` on, below DATA or absolute; empty for a separate file. `modified_ns` is the time of the
    container or file. `own_name` is the image's name where the path does not end in it.
    """

    path: str
    label: str
    split: str = ""
    group: str = ""
    size: int = 0
    modified_ns: int = -1
    container: str = ""
    offset: int = -1
    where: str = ""
    own_name: str = ""

    @property
    def name(self) -> str:
        """The image's own name, without folders: the same in every layout."""
        return self.own_name or PurePosixPath(self.path).name

    @property
    def title(self) -> str:
        """What messages call it."""
        return printable(self.where or self.path)


@dataclass(frozen=True)
class SampleTree:
    """All samples of a source: `kind` says in words which layout was found; `class_order` is the source's own, if any.

    `ignored` counts entries that are no images, `unlabelled` images that the source gives no label: these are left out.
    `columns` are those of its table that `--group-by` can name. `is_as_given` if wnids need no `--unverified`: the set
    has labels of its own. `read_files` are the tables and archives that were read, below DATA.
    """

    kind: str
    samples: Sequence[Sample]
    ignored: EntryCount = field(default_factory=EntryCount)
    unlabelled: EntryCount = field(default_factory=EntryCount)
    class_order: tuple[str, ...] = ()
    is_as_given: bool = False
    follows_links: bool = False
    read_files: Sequence[str] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the source states, in the order of SPLITS."""
        found = {sample.split for sample in self.samples}
        return tuple(split for split in SPLITS if split in found)


def split_of_word(word: str) -> str:
    """Return the split that a folder or column value names, such as val for "Validation"; empty for another word."""
    return _SPLIT_OF_WORD.get(word.lower(), "")


def split_of_path(path: str) -> str:
    """Return the split that a part of a path names, such as train for "data/train-00000-of-00002.parquet", or ""."""
    for part in path.split("/"):
        if match := _WORD.search(part):
            return _SPLIT_OF_WORD[match[1].lower()]
    return ""


def natural_order(names: Iterable[str]) -> tuple[list[str], bool]:
    """Return class names in their order, and whether it is that of numbers: 10 after 9, if all have the same prefix.

    The numbers may end in ".0", as pandas writes a column that has gaps.
    """
    in_text_order = sorted(names)
    matches = [re.fullmatch(r"(\D*)(\d{1,18})(?:\.0)?", name) for name in in_text_order]
    if not all(matches) or len({match[1] for match in matches if match}) != 1:
        return in_text_order, False
    by_number = sorted(in_text_order, key=lambda name: (int(re.sub(r"\D|\.0$", "", name)), name))
    return by_number, by_number != in_text_order


def require_safe(path: str, where: str) -> str:
    """Return a path that a table states, with simple slashes. Raises IngestError for one that leads out of DATA."""
    parts = PurePosixPath(path.replace("\\", "/") if "/" not in path else path).parts
    if not parts or parts[0] == "/" or re.fullmatch(r"[A-Za-z]:", parts[0]):
        raise IngestError(
            f"{where}: {path[:80]!a} is an absolute or empty path; write it relative to the table's folder"
        )
    if ".." in parts:
        raise IngestError(f"{where}: {path[:80]!a} leads out of its folder by ..; move the image into DATA")
    return "/".join(part for part in parts if part != ".")


def require_names(samples: Sequence[Sample]) -> None:
    """Raise IngestError for labels or paths that are not printable, and labels that would lead out of a folder."""
    names = (name for sample in samples for name in (sample.label, sample.path))
    if bad := sorted({ascii(name) for name in names if not name.isprintable()}):
        raise IngestError(f"{first_few(bad)}: not printable UTF-8; rename these files or labels ({len(bad)})")
    labels = {sample.label for sample in samples}
    if bad := sorted(label for label in labels if {"", ".", ".."}.intersection(label.split("/"))):
        raise IngestError(f"{first_few(bad)}: no name of a class, a part of it is empty, . or ..; rename the class")
