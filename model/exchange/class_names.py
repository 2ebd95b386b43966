"""The classes of an imported classifier: (wnid, name) by index."""

import lzma
import re
from collections.abc import Sequence
from pathlib import Path

from convnext_imagenet.model.errors import ModelError

_PACKAGED = Path(__file__).with_name("imagenet_classes.txt")
_PACKAGED_22K = Path(__file__).with_name("imagenet22k_classes.txt.xz")
_SAME_NAMES = 0.95  # lists of ImageNet's names differ in a few words
WNID = re.compile(r"n\d{8}")

ClassTable = tuple[tuple[str, str], ...]


def imagenet_classes() -> ClassTable:
    """Return the 1000 classes of ILSVRC2012, sorted by wnid, which is the order of every published classifier.

    Names are WordNet's words; the file states its sources (DECISIONS, 2026-11-26).
    """
    return read_classes(_PACKAGED)


def packaged_counts() -> tuple[int, ...]:
    """Return the numbers of outputs whose classes are known: those of ILSVRC2012, ImageNet-12k and ImageNet-22k."""
    return 1000, 11821, 21841


def packaged_classes(count: int) -> tuple[str, ClassTable]:
    """Return the name and the classes of a list of `packaged_counts`, sorted by wnid, as the published heads are."""
    if count == 1000:
        return "ILSVRC2012", imagenet_classes()
    lines = lzma.decompress(_PACKAGED_22K.read_bytes()).decode().splitlines()
    rows = [line.split(" ", 2) for line in lines if not line.startswith("#")]
    if count == len(rows):
        return "ImageNet-22k", tuple((wnid, name) for wnid, _, name in rows)
    return "timm's ImageNet-12k", tuple((wnid, name) for wnid, mark, name in rows if mark == "+")


def named_classes(what: str, outputs: int, labels: Sequence[str]) -> tuple[ClassTable, str]:
    """Return the classes that a configuration names, and where they come from in words.

    Labels are wnids, ImageNet's names in ImageNet's order, or names of other classes, which have no wnids. Raises
    ModelError, starting with `what`, for another number of labels than `outputs`, and for ImageNet's names in another
    order.
    """
    if len(labels) != outputs:
        raise ModelError(
            f"{what}: its classifier has {outputs} outputs, but {len(labels)} labels are stated; pass --classes with "
            f"the list of its classes"
        )
    if all(WNID.fullmatch(label) for label in labels):
        names = dict(packaged_classes(21841)[1]) | dict(imagenet_classes())
        return tuple((label, names.get(label, label)) for label in labels), f"{outputs} wnids stated beside the file"
    if outputs == len(imagenet_classes()):
        known, found = ([name.split(",")[0].strip().lower() for name in names] for names in (_imagenet_names(), labels))
        if sum(a == b for a, b in zip(known, found, strict=True)) >= _SAME_NAMES * outputs:
            return imagenet_classes(), f"the {outputs} of ILSVRC2012, whose names are stated beside the file"
        if len(set(known) & set(found)) >= _SAME_NAMES * len(set(known)):
            raise ModelError(
                f"{what}: the class names stated beside it are ImageNet's in another order; pass --classes with the "
                f"wnids in the order of the outputs"
            )
    return tuple(("", label) for label in labels), f"{outputs} names without wnids stated beside the file"


def _imagenet_names() -> list[str]:
    return [name for _, name in imagenet_classes()]


def read_classes(path: Path) -> ClassTable:
    """Return the classes in a text file: a line "wnid name" for each, in the order of the outputs; # begins a comment.

    Raises ModelError for a file that is not such a list, or lists a wnid twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: cannot be read as a list of classes ({error}); give a text file of lines 'wnid name'"
        ) from error
    classes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        wnid, _, name = line.strip().partition(" ")
        if not WNID.fullmatch(wnid) or wnid in classes:
            fault = "is listed twice" if wnid in classes else "is not a wnid such as n01440764"
            raise ModelError(f"{path}: line {number}: {wnid[:40]!r} {fault}; give one line 'wnid name' for each class")
        classes[wnid] = name.strip() or wnid
    if not classes:
        raise ModelError(f"{path}: lists no classes; give one line 'wnid name' for each class")
    return tuple(classes.items())


def unnamed_classes(count: int) -> ClassTable:
    """Return `count` classes without names: an empty wnid, and the index as the name."""
    return tuple(("", f"class {index}") for index in range(count))
