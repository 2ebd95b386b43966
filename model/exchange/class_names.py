"""The classes of an imported classifier: (wnid, name) by index."""

import re
from pathlib import Path

from convnext_imagenet.model.errors import ModelError

_PACKAGED = Path(__file__).with_name("imagenet_classes.txt")
_WNID = re.compile(r"n\d{8}")

ClassTable = tuple[tuple[str, str], ...]


def imagenet_classes() -> ClassTable:
    """Return the 1000 classes of ILSVRC2012, sorted by wnid, which is the order of every published classifier.

    Names are WordNet's words; the file states its sources (DECISIONS, 2026-11-26).
    """
    return read_classes(_PACKAGED)


def read_classes(path: Path) -> ClassTable:
    """Return the classes in a text file: a line "wnid name" for each, in the order of the outputs; # begins a comment.

    Raises ModelError for a file that is not such a list, or lists a wnid twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: cannot be read as a list of classes ({error}); give a text file of lines 'wnid name'"
        ) from error
    classes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        wnid, _, name = line.strip().partition(" ")
        if not _WNID.fullmatch(wnid) or wnid in classes:
            fault = "is listed twice" if wnid in classes else "is not a wnid such as n01440764"
            raise ModelError(f"{path}: line {number}: {wnid[:40]!r} {fault}; give one line 'wnid name' for each class")
        classes[wnid] = name.strip() or wnid
    if not classes:
        raise ModelError(f"{path}: lists no classes; give one line 'wnid name' for each class")
    return tuple(classes.items())


def unnamed_classes(count: int) -> ClassTable:
    """Return `count` classes without names: an empty wnid, and the index as the name."""
    return tuple(("", f"class {index}") for index in range(count))
