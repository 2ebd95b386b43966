"""Images in tars with any names: webdataset (`KEY.jpg` beside `KEY.cls` or `KEY.json`) and packed class folders.

A tar is read in place, a tar.gz from its unpacked copy. Member names are compared, never used as paths. Opens no image.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath

from convnext_imagenet.base.tars import BadTar, Member, walk_tar
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import IMAGE_ENDINGS, Links, is_folder, list_folder
from convnext_imagenet.ingest.source.junk import junk_kind
from convnext_imagenet.ingest.source.own_folders import folder_names
from convnext_imagenet.ingest.source.own_tables import LABEL_COLUMNS
from convnext_imagenet.ingest.source.safe_open import open_source
from convnext_imagenet.ingest.source.samples import Sample, SampleTree, split_of_path, split_of_word
from convnext_imagenet.ingest.source.scan_types import EntryCount, ScanNotes, printable
from convnext_imagenet.ingest.source.unpack import Unpacker

PLAIN_ENDINGS, GZIP_ENDINGS = (".tar",), (".tar.gz", ".tgz")
CLASS_NAMES_FILE = "classnames.txt"  # as the webdatasets of CLIP benchmarks have it: line n is the name of class n
_LARGEST_LABEL_BYTES = 1 << 20
_MOST_MEMBERS = 20_000_000
_NAME_KEYS = ("class_name", "label_name", "class_text")


@dataclass(frozen=True)
class _Tar:
    """A tar: its name below DATA, the file to read, and the name of this file for the reader of images."""

    name: str
    file: Path
    container: str
    modified_ns: int


def find_tars(root: Path) -> list[str]:
    """Return the tars at the root and in its folders that name splits: paths below `root`."""
    found = []
    for folder in (".", *(name for name in folder_names(root) if split_of_word(name) or name == "data")):
        for entry in list_folder(root, folder, ScanNotes()):
            if entry.name.lower().endswith((*PLAIN_ENDINGS, *GZIP_ENDINGS)) and not is_folder(entry):
                found.append(entry.name if folder == "." else f"{folder}/{entry.name}")
    return [name for name in found if "devkit" not in name.lower()]


def scan_tars(root: Path, names: list[str], links: Links, unpacker: Unpacker, label_column: str) -> SampleTree:
    """Return the images in tars. Raises IngestError for a tar that is damaged, and for labels without images."""
    samples: list[Sample] = []
    ignored, unlabelled = EntryCount(), EntryCount()
    class_names = _class_names(root)
    is_webdataset = False
    folder_members: list[tuple[_Tar, list[Member]]] = []
    for name in names:
        links.check_below(root, name)
        tar = _open(root, name, unpacker)
        members = [member for member in _members(root, tar) if not _is_junk(member, tar, ignored)]
        if any(member.name.endswith((".cls", ".json")) for member in members):
            is_webdataset = True
            samples += _webdataset(root, tar, members, class_names, label_column, unlabelled, ignored)
        else:
            folder_members.append((tar, members))
    samples += _packed_folders(root, folder_members, ignored)
    kind = f"{'webdataset' if is_webdataset else 'class folders'} in {first_few(names)}"
    order = tuple(class_names) if is_webdataset and class_names else ()
    return SampleTree(kind, samples, ignored, unlabelled, order, follows_links=links.follow)


def walk_file(path: Path, container: str) -> Iterator[Member]:
    """Yield the members of a tar. Raises IngestError for a damaged one, which messages call `container`."""
    descriptor = open_source(path, follow_links=True)  # the caller has checked where a link leads
    if descriptor is None:
        raise IngestError(f"{container}: not a plain file; put the tar there")
    with FileIO(descriptor) as file:
        try:
            yield from walk_tar(file, 0, path.stat().st_size)
        except BadTar as error:
            raise IngestError(f"{container}: damaged or truncated ({error}); download it again") from None


def _open(root: Path, name: str, unpacker: Unpacker) -> _Tar:
    if name.lower().endswith(GZIP_ENDINGS):
        path = unpacker.tar_of(root, name)
        return _Tar(name, path, str(path.absolute()), path.stat().st_mtime_ns)
    return _Tar(name, root / name, name, (root / name).stat().st_mtime_ns)


def _members(root: Path, tar: _Tar) -> list[Member]:
    members = []
    for member in walk_file(tar.file, str(root / tar.name)):
        if member.kind == "folder":
            continue
        if member.kind != "file":
            raise IngestError(
                f"{root / tar.name}: contains {printable(member.name)[:200]!r} ({member.kind}); pack it again"
            )
        members.append(member._replace(name=member.name.removeprefix("./")))
        if len(members) > _MOST_MEMBERS:
            raise IngestError(f"{root / tar.name}: contains more than {_MOST_MEMBERS:,} files; split it")
    return members


def _is_junk(member: Member, tar: _Tar, ignored: EntryCount) -> bool:
    *folders, name = member.name.split("/")
    kind = junk_kind(name, is_folder=False) or next(filter(None, (junk_kind(each, True) for each in folders)), None)
    if kind:
        ignored.add(f"{tar.name}/{member.name}", kind)
    return bool(kind)


def _sample(tar: _Tar, member: Member, label: str, split: str) -> Sample:
    path = f"{tar.name}/{member.name}"
    return Sample(path, label, split, "", member.size, tar.modified_ns, tar.container, member.offset)


def _webdataset(
    root: Path,
    tar: _Tar,
    members: list[Member],
    class_names: list[str],
    label_column: str,
    unlabelled: EntryCount,
    ignored: EntryCount,
) -> Iterator[Sample]:
    of_key: dict[str, dict[str, Member]] = defaultdict(dict)
    for member in members:
        folder, _, name = member.name.rpartition("/")
        key, _, ending = name.partition(".")
        of_key[f"{folder}/{key}"][ending.lower()] = member
    lost = []
    split = split_of_path(tar.name)
    with tar.file.open("rb") as file:

        def content(member: Member) -> str:
            if member.size > _LARGEST_LABEL_BYTES:
                raise IngestError(
                    f"{root / tar.name}: {printable(member.name)} has {member.size:,} bytes, too many for a label"
                )
            file.seek(member.offset)
            return file.read(member.size).decode("utf-8", "replace").strip()

        for key, files in of_key.items():
            images = [ending for ending in files if f".{ending}" in IMAGE_ENDINGS]
            label = _label(root, tar, files, content, class_names, label_column)
            for ending in files:
                if ending not in (*images, "cls", "json"):
                    ignored.add(f"{tar.name}/{files[ending].name}", f"*.{ending}")
            if len(images) > 1:
                raise IngestError(f"{root / tar.name}: {printable(key)} has {len(images)} images ({first_few(images)})")
            if not images:
                if label:
                    lost.append(printable(key.strip("/")))
            elif not label:
                unlabelled.add(f"{tar.name}/{files[images[0]].name}")
            else:
                yield _sample(tar, files[images[0]], label, split)
    if lost:
        raise IngestError(f"{root / tar.name}: {len(lost)} labels have no image: {first_few(lost)}; pack the tar again")


def _label(
    root: Path,
    tar: _Tar,
    files: Mapping[str, Member],
    content: Callable[[Member], str],
    class_names: list[str],
    label_column: str,
) -> str:
    """Return the label of a key: of its .cls, else of its .json; a number is looked up in the names of classes."""
    where = f"{root / tar.name}: {printable((files.get('cls') or files.get('json') or Member('', '', 0, 0)).name)}"
    text = ""
    if "cls" in files and not label_column:
        text = content(files["cls"])
    elif "json" in files:
        try:
            values = json.loads(content(files["json"]))
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


def _class_names(root: Path) -> list[str]:
    path = root / CLASS_NAMES_FILE
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()] if path.is_file() else []
    if len(set(names)) != len(names):
        raise IngestError(f"{path}: has a name twice; give each class a name of its own")
    return names


def _packed_folders(root: Path, tars: list[tuple[_Tar, list[Member]]], ignored: EntryCount) -> Iterator[Sample]:
    """Yield the images of tars that hold folders: the innermost folder is the class, a folder above it the split."""
    for tar, members in tars:
        # without the file's own name in the way: flowers.tar with flowers/daisy/1.jpg has the class daisy
        depth = max((member.name.count("/") for member in members), default=0)
        for member in members:
            folders = PurePosixPath(member.name).parts[:-1]
            if not folders or len(folders) < depth:
                if member.name.lower().endswith(IMAGE_ENDINGS):
                    raise IngestError(
                        f"{root / tar.name}: {printable(member.name)} is in no class folder; pack class folders, or "
                        f"images with .cls files (webdataset)"
                    )
                ignored.add(f"{tar.name}/{member.name}")
                continue
            split = next((split_of_word(name) for name in folders[:-1] if split_of_word(name)), split_of_path(tar.name))
            yield _sample(tar, member, folders[-1], split)
