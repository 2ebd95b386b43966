"""Webdataset: archives of `KEY.jpg` beside `KEY.cls` or `KEY.json`. Opens no image."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from convnext_imagenet.base.tars import Member
from convnext_imagenet.base.wording import plural
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.own_archives import Archive, is_image_name
from convnext_imagenet.ingest.source.own_tables import LABEL_COLUMNS
from convnext_imagenet.ingest.source.samples import Sample, split_of_path
from convnext_imagenet.ingest.source.scan_types import EntryCount, printable

CLASS_NAMES_FILE = "classnames.txt"  # as the webdatasets of CLIP benchmarks have it: line n is the name of class n
_LABEL_ENDINGS = (".cls", ".json")
_LARGEST_LABEL_BYTES = 1 << 20
_NAME_KEYS = ("class_name", "label_name", "class_text")


def is_webdataset(archive: Archive) -> bool:
    """Return whether an archive has labels beside its images: a file of labels with the key of an image."""
    keys = {_key(name)[0] for name in archive.members if name.endswith(_LABEL_ENDINGS)}
    return any(is_image_name(name) and _key(name)[0] in keys for name in archive.members)


def scan_webdataset(
    root: Path,
    archive: Archive,
    class_names: Sequence[str],
    label_column: str,
    unlabelled: EntryCount,
    ignored: EntryCount,
) -> Iterator[Sample]:
    """Yield the images of an archive that have a label; count those without, and files that are neither.

    Raises IngestError for labels without images, two images of one key, and labels that cannot be read.
    """
    of_key: dict[str, dict[str, Member]] = defaultdict(dict)
    for name, member in archive.members.items():
        key, ending = _key(name)
        of_key[key][ending] = member
    lost = []
    split = split_of_path(archive.name)
    for key, files in of_key.items():
        images = [ending for ending in files if is_image_name(f".{ending}")]
        label = _label(root, archive, files, class_names, label_column)
        for ending in files:
            if ending not in (*images, "cls", "json"):
                ignored.add(f"{archive.name}/{files[ending].name}", f"*.{ending}")
        if len(images) > 1:
            raise IngestError(
                f"{root / archive.name}: the key {printable(key.strip('/'))} has {len(images)} images "
                f"({first_few(images)}); a key ends at the first dot of a name, so pack the tar again without dots in "
                f"keys"
            )
        if not images:
            if label:
                lost.append(printable(key.strip("/")))
        elif not label:
            unlabelled.add(f"{archive.name}/{files[images[0]].name}")
        else:
            yield archive.sample(files[images[0]], label, split)
    if lost:
        raise IngestError(
            f"{root / archive.name}: {plural(len(lost), 'label')} without an image: {first_few(lost)}; "
            f"pack the tar again"
        )


def _key(name: str) -> tuple[str, str]:
    """Return the key of a member, and the ending: what follows the first dot of its own name."""
    folder, _, own = name.rpartition("/")
    key, _, ending = own.partition(".")
    return f"{folder}/{key}", ending.lower()


def _content(root: Path, archive: Archive, member: Member) -> str:
    if member.size > _LARGEST_LABEL_BYTES:
        raise IngestError(
            f"{root / archive.name}: {printable(member.name)} has {member.size:,} bytes, too many for a label"
        )
    return archive.read(member).decode("utf-8", "replace").strip()


def _label(
    root: Path, archive: Archive, files: Mapping[str, Member], class_names: Sequence[str], label_column: str
) -> str:
    """Return the label of a key: of its .cls, else of its .json; a number is looked up in the names of classes."""
    where = f"{root / archive.name}: {printable((files.get('cls') or files.get('json') or Member('', '', 0, 0)).name)}"
    text = ""
    if "cls" in files and not label_column:
        text = _content(root, archive, files["cls"])
    elif "json" in files:
        try:
            values = json.loads(_content(root, archive, files["json"]))
        except ValueError:
            raise IngestError(f"{where}: not JSON; pack the tar again") from None
        keys = (label_column,) if label_column else (*_NAME_KEYS, *LABEL_COLUMNS, "cls")
        found = [values[key] for key in keys if key in values] if isinstance(values, dict) else []
        text = str(found[0]).strip() if found and isinstance(found[0], str | int) else ""
    if not class_names or not text.isdigit():
        return text
    if int(text) >= len(class_names):
        raise IngestError(f"{where}: the class is {text}, but {CLASS_NAMES_FILE} has only {len(class_names)} names")
    return class_names[int(text)]


def read_class_names(root: Path) -> list[str]:
    """Return the names of classes by number, none without a file of them. Raises IngestError for a name twice."""
    path = root / CLASS_NAMES_FILE
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()] if path.is_file() else []
    if len(set(names)) != len(names):
        raise IngestError(f"{path}: has a name twice; give each class a name of its own")
    return names
