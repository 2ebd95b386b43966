"""Which classes a RECORDS directory has, and their class indices: `--classes all`, `found` or a file.

Knows nothing of single images.
"""

import difflib
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convnext_imagenet.base.wording import as_word
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.labels.devkit import OFFICIAL_CLASSES
from convnext_imagenet.ingest.source.scan_types import Folder, SplitScan, printable

_WNID_AND_MORE = re.compile(r"n[0-9]{8}[\s,;:|]")
_LARGEST_CLASS_FILE_BYTES = 16 << 20  # a path to an image by mistake must not fill the memory


@dataclass(frozen=True)
class ClassRule:
    """How the classes are chosen; `names` has the lines of the file when the kind is "file".

    "fixed" is for images that are added to records: `names` are the classes there, of which the tree may lack some.
    """

    kind: Literal["all", "found", "file", "fixed"]
    names: tuple[str, ...] = ()


def read_class_rule(text: str) -> ClassRule:
    """Return the rule for a value of `--classes`; read the file if it names one.

    Raises IngestError for a file that cannot be read, lists no class, or lists one twice.
    """
    if text == "all":
        return ClassRule("all")
    if text == "found":
        return ClassRule("found")
    try:
        with Path(text).open("rb") as file:
            lines = file.read(_LARGEST_CLASS_FILE_BYTES).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise IngestError(
            f"--classes {text}: cannot be read as a file ({error.strerror}); pass all, found, or a file of wnids"
        ) from None
    except UnicodeDecodeError:
        raise IngestError(f"--classes {text}: not a text file; list one wnid per line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    for number, name in enumerate(names, start=1):
        if name.startswith("#") or _WNID_AND_MORE.match(name):
            raise IngestError(
                f"--classes {text}: line {number} is {name[:40]!a}, not only a wnid; list one wnid per line and "
                f"nothing else: grep -o 'n[0-9]\\{{8\\}}' {as_word(text)} > wnids.txt"
            )
    if not names:
        raise IngestError(f"--classes {text}: lists no class; list one wnid per line")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise IngestError(f"--classes {text}: lists a class twice: {first_few(twice)}; list each wnid once")
    return ClassRule("file", names)


def choose_classes(
    rule: ClassRule, train: SplitScan, leaves: Mapping[str, object] | None, authority: str = "the devkit"
) -> tuple[str, ...]:
    """Return the chosen classes in ASCII order; the class index is the position.

    The keys of `leaves` are the wnids that `authority` knows; without a devkit pass None: then every folder name is a
    class. Raises IngestError for a folder that is not a leaf, for an empty folder, and for anything else that the rule
    does not allow.
    """
    if rule.kind == "all" and leaves is not None:
        _check_all_there(train, leaves, authority)
    if rule.kind == "fixed":
        return _fixed_classes(rule, train)
    chosen = rule.names if rule.kind == "file" else tuple(dict.fromkeys(folder.class_name for folder in train.folders))
    folders = {folder.class_name: folder for folder in train.folders}
    for name in chosen:
        if leaves is not None and name not in leaves:
            raise IngestError(_no_leaf_message(rule, name, folders.get(name), leaves, authority))
        if name not in folders:
            raise IngestError(
                f"--classes: {name} has no folder in train/{_did_you_mean(name, folders)}; "
                f"remove it from the list, or add its folder"
            )
        if not folders[name].names:
            raise IngestError(
                f"{folders[name].path}: contains no images; download them, "
                f"or list the other classes in a file and pass --classes FILE"
            )
    return tuple(sorted(chosen))


def refuse_twins(folders: Sequence[Folder]) -> None:
    """Raise IngestError for two class folders whose names look alike and differ only in their Unicode form."""
    seen: dict[str, str] = {}
    for folder in folders:
        first = seen.setdefault(unicodedata.normalize("NFC", folder.class_name), folder.class_name)
        if first != folder.class_name:
            raise IngestError(
                f"{folder.path}: two class folders of this name, {first!a} and {folder.class_name!a}, in two Unicode "
                f"forms (NFC and NFD) that look alike; move the images of one into the other"
            )


def twin_of(name: str, known: Collection[str]) -> str | None:
    """Return the name among `known` that differs from `name` only in its Unicode form, or None."""
    form = unicodedata.normalize("NFC", name)
    return next((other for other in known if other != name and unicodedata.normalize("NFC", other) == form), None)


def _fixed_classes(rule: ClassRule, train: SplitScan) -> tuple[str, ...]:
    if new := [folder.class_name for folder in train.folders if folder.class_name not in rule.names]:
        raise IngestError(
            f"{first_few([printable(name) for name in new])}: not among the {len(rule.names)} classes of the records, "
            f"and a new class would change the class indices; build all images again, without --onto"
        )
    return rule.names


def _check_all_there(train: SplitScan, leaves: Mapping[str, object], authority: str) -> None:
    if len(leaves) != OFFICIAL_CLASSES:
        raise IngestError(
            f"{authority} has {len(leaves)} classes, but --classes all requires the official {OFFICIAL_CLASSES}; "
            f"pass --classes found"
        )
    missing = sorted(leaves.keys() - {folder.class_name for folder in train.folders})
    strange = [folder for folder in train.folders if folder.class_name not in leaves]
    if missing and not strange:
        raise IngestError(
            f"train/ lacks {len(missing)} of the {len(leaves)} classes ({first_few(missing)}); "
            f"download them, or pass --classes found to ingest a subset"
        )


def _no_leaf_message(
    rule: ClassRule, name: str, folder: Folder | None, leaves: Mapping[str, object], authority: str
) -> str:
    if rule.kind == "file" or folder is None:
        return f"--classes: {name!a} is not a class of {authority}{_did_you_mean(name, leaves)}"
    if named := {file.partition("_")[0] for file in folder.names} & leaves.keys():
        hint = f"; its files have the names of {first_few(sorted(named))}, so rename the folder"
    else:
        hint = _did_you_mean(name, leaves)
    return (
        f"{printable(folder.path)}: {name!a} is not a class of {authority}{hint}; "
        f"to leave it out, pass --classes FILE; if the classes are not ImageNet's, pass --unverified"
    )


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""
