"""Kaggle's files beside its copy of ImageNet: `LOC_val_solution.csv` and `LOC_synset_mapping.txt`.

Kaggle ships no devkit. Its solution is accepted only if all its labels are those of the official ground truth, whose
SHA-256 is known; then val labels and class list are as reliable as with a devkit. Kaggle does not state how many train
images each class has: only the total can be checked (DECISIONS, 2026-11-23). Knows nothing of image files.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.labels.authority import LabelAuthority
from convnext_imagenet.ingest.labels.devkit import read_small_file
from convnext_imagenet.ingest.source.layout import KAGGLE_MAPPING, KAGGLE_SOLUTION

# The 50,000 val wnids in the order of the file names, each followed by a newline.
OFFICIAL_VAL_SHA256 = "313fc3f23c864dde9183c9a368809065765dd1b657a6904fded44e3e46d34604"
_HEADER = "ImageId,PredictionString"
_IMAGE_ID = re.compile(r"ILSVRC2012_val_([0-9]{8})")
_WNID = re.compile(r"n[0-9]{8}")
_NUMBERS_OF_A_BOX = 4
_FETCH_HINT = "download it from Kaggle again"


def read_kaggle(root: Path) -> LabelAuthority:
    """Return what Kaggle's files in `root` state about labels. Raises IngestError unless the labels are official."""
    path = root / KAGGLE_SOLUTION
    wnid_of = read_solution(path)
    wnids, digest = list(wnid_of.values()), _digest(wnid_of)
    if digest != OFFICIAL_VAL_SHA256 or list(wnid_of) != list(range(1, len(wnids) + 1)):
        raise IngestError(
            f"{path}: its {len(wnids):,} labels are not the official 50,000, so they cannot be trusted; "
            f"{_FETCH_HINT}, or put ILSVRC2012_devkit_t12.tar.gz into {root}"
        )
    names = read_mapping(root / KAGGLE_MAPPING)
    if differing := sorted(names.keys() ^ set(wnids)):
        raise IngestError(
            f"{root / KAGGLE_MAPPING}: its classes differ from the solution's: {first_few(differing)}; {_FETCH_HINT}"
        )
    return LabelAuthority("Kaggle's synset mapping", names, wnids, train_images=None, sha256=digest)


def cross_check(root: Path, devkit: LabelAuthority) -> str | None:
    """Compare Kaggle's solution with the devkit's ground truth; return its SHA-256, or None if there is no solution.

    Raises IngestError at the first label that differs.
    """
    path = root / KAGGLE_SOLUTION
    if not path.exists():
        return None
    wnid_of = read_solution(path)
    for number, wnid in wnid_of.items():
        expected = devkit.val_wnids[number - 1] if number <= len(devkit.val_wnids) else "no label"
        if wnid != expected:
            raise IngestError(
                f"{path}: image {number} is {wnid}, but the devkit says {expected}; one of the two files is not "
                f"ILSVRC2012's, download both again"
            )
    return _digest(wnid_of)


def read_solution(path: Path) -> dict[int, str]:
    """Return the wnid of each val image by its number, ascending, from `LOC_val_solution.csv`.

    Raises IngestError for a file of another format, and for an image that is listed twice.
    """
    header, *lines = _read_text(path).splitlines() or [""]
    if header != _HEADER:
        raise IngestError(f"{path}: does not start with {_HEADER}; {_FETCH_HINT}")
    wnid_of: dict[int, str] = {}
    for line_number, line in enumerate(lines, start=2):
        number, wnid = _parse_line(line, f"{path}: line {line_number}")
        if number in wnid_of:
            raise IngestError(f"{path}: line {line_number}: image {number} is listed twice; {_FETCH_HINT}")
        wnid_of[number] = wnid
    if not wnid_of:
        raise IngestError(f"{path}: contains no labels; {_FETCH_HINT}")
    return dict(sorted(wnid_of.items()))


def read_mapping(path: Path) -> dict[str, str]:
    """Return the names of each class by wnid, from `LOC_synset_mapping.txt`. Raises IngestError for another format."""
    names: dict[str, str] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        wnid, _, words = line.partition(" ")
        if not _WNID.fullmatch(wnid) or not words.strip() or wnid in names:
            raise IngestError(
                f"{path}: line {number} is {line[:60]!a}, expected a new wnid and its names; {_FETCH_HINT}"
            )
        names[wnid] = words.strip()
    return names


def _digest(wnid_of: Mapping[int, str]) -> str:
    return hashlib.sha256("".join(f"{wnid}\n" for wnid in wnid_of.values()).encode()).hexdigest()


def _parse_line(line: str, origin: str) -> tuple[int, str]:
    """Return number and wnid of a line such as "ILSVRC2012_val_00000001,n01751748 111 108 399 331 "."""
    image_id, _, prediction = line.partition(",")
    match, boxes = _IMAGE_ID.fullmatch(image_id), prediction.split()
    wnids = set(boxes[:: 1 + _NUMBERS_OF_A_BOX])
    if match is None or int(match[1]) < 1 or len(wnids) != 1 or len(boxes) % (1 + _NUMBERS_OF_A_BOX):
        raise IngestError(f"{origin} is {line[:80]!a}, expected an image of one class with boxes; {_FETCH_HINT}")
    wnid = wnids.pop()
    if not _WNID.fullmatch(wnid):
        raise IngestError(f"{origin}: {wnid[:20]!a} is not a wnid; {_FETCH_HINT}")
    return int(match[1]), wnid


def _read_text(path: Path) -> str:
    try:
        return read_small_file(path, _FETCH_HINT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise IngestError(f"{path}: not a text file; {_FETCH_HINT}") from None
