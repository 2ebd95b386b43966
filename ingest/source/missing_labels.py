"""What lies in DATA when its images have no class that a source can read: labels of other kinds, and what to do.

Only names are looked at, of DATA and of the folders in it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from convnext_imagenet.base.wording import as_word
from convnext_imagenet.ingest.errors import IngestError, first_few
from convnext_imagenet.ingest.source.folders import folder_names, has_images, is_folder, list_folder
from convnext_imagenet.ingest.source.own_tables import TEXT_ENDINGS, columns_on_disk
from convnext_imagenet.ingest.source.samples import split_of_word
from convnext_imagenet.ingest.source.scan_types import ScanNotes, printable

# Folders that public sets have beside or above their classes.
_NO_CLASSES = frozenset(
    (
        *("anno", "annotation", "annotations", "bboxes", "labels", "lists", "imagesets", "masks", "meta", "metadata"),
        *("images", "image", "img", "imgs", "jpg", "jpeg", "jpegs", "jpegimages", "png", "pngs", "photos", "pictures"),
        *("data", "dataset", "devkit", "imdb"),
    )
)
_PARTS = re.compile(r"[-_. ]+|(?<=[a-z])(?=[0-9]{4}$)")  # also a year, as in train2017
_WRITE_TABLE = "write a CSV with the columns path and label"
_WRITE_FOLDERS = "write the images as PNG into class folders"
_CLUES = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"(.*/)?(data_batch_[0-9]+|batches\.meta)", f"CIFAR's arrays of pixels; {_WRITE_FOLDERS}"),
        (r".*idx[13]-ubyte(\.gz)?", f"MNIST's arrays of pixels; {_WRITE_FOLDERS}"),
        (r".*\.(npy|npz|h5|hdf5|pkl|pickle)", f"arrays, no image files; {_WRITE_FOLDERS}"),
        (r".*\.(tfrecords?|mdb|rec)|.*-[0-9]{5}-of-[0-9]{5}", f"records of another program; {_WRITE_FOLDERS}"),
        (r"(.*/)?(.*\.coco|instances_.*)\.json", f"COCO's labels of objects, not of images; {_WRITE_TABLE}"),
        (r"(.*/)?data\.ya?ml", f"YOLO's labels of objects, not of images; {_WRITE_TABLE}"),
        (r".*\.xml", f"labels of objects in XML, as Pascal VOC has them, not of images; {_WRITE_TABLE}"),
        (r"(.*/)?_classes\.csv", f"a table of several classes for an image; {_WRITE_TABLE}"),
        (r".*\.mat", f"labels in MATLAB's format, which scipy.io.loadmat reads; {_WRITE_TABLE}"),
        (r"(.*/)?[^/]*(20[0-9]{2}|train|val|test|label|annotation)[^/]*\.json", f"labels in JSON; {_WRITE_TABLE}"),
        (
            r"(images|image_class_labels|train_test_split|classes|labels|train|val|valid|test)\.txt|"
            r"(meta|labels|annotations|lists|imagesets|data)/.*\.txt",
            f"lists in a format of their own; to keep their splits, {_WRITE_TABLE} and split",
        ),
        (
            r".*\\.*",
            "names with backslashes, as Windows writes them into zips; pass the folder of the zip, not unpacked",
        ),
        (r".*\.(rar|7z|tar\.(bz2|xz|zst))", "an archive of a kind that is not read; unpack it"),
        (r".*\.(csv|tsv|jsonl)\.(gz|bz2|xz|zst)", "a compressed table; unpack it"),
    )
)
_MOST_LOOKED_AT = 1000  # entries of DATA, and of each folder in it
_MOST_CLUES = 2
_NUMBERED = re.compile(r"(.*[A-Za-z])[-_.][0-9]+\.[A-Za-z]+")  # cat.0.jpg, Abyssinian_1.jpg


def is_no_class(name: str) -> bool:
    """Return whether a folder's name says what kind of files it holds, as images or train2017 do, and no class."""
    parts = _PARTS.split(name.lower())
    kinds = [part for part in parts if part in _NO_CLASSES]
    splits = [part for part in parts if split_of_word(part)]
    numbers = [part for part in parts if part.isdigit()]
    return len(kinds) + len(splits) + len(numbers) == len(parts) and bool(kinds or (splits and len(parts) > 1))


def refuse_no_classes(root: Path, above: Path, names: Sequence[str]) -> None:
    """Raise IngestError when folders of `above` are no classes: by a name, or a single one with labels beside it."""
    strange = [name for name in names if is_no_class(name)]
    if not strange and len(names) == 1 and clues(root):
        strange = list(names)
    if not strange:
        return
    inner = {name: folder_names(above, name) for name in strange}
    if deeper := [name for name in strange if inner[name] and not any(map(split_of_word, inner[name]))]:
        taken = first_few([printable(name) for name in inner[deeper[0]]])
        hint = f"{clues(root)}; to take the folders {taken} as classes, pass {above / deeper[0]}".removeprefix("; ")
    else:
        flat = next((name for name in strange if has_images(above, name)), strange[0])
        hint = how_to_label(root, above / flat)
    raise IngestError(
        f"{above}: {first_few([printable(name) for name in strange])}: no class, by its name or what lies beside it; "
        f"{hint}"
    )


def how_to_label(root: Path, folder: Path) -> str:
    """Return what may hold the labels of the images in a folder, and how to give them labels."""
    parts = filter(None, (clues(root), _class_in_names(root, folder)))
    return "; ".join(parts) or (
        "sort them into folders named as their classes, or put a metadata.csv of file_name and label beside them"
    )


def clues(root: Path) -> str:
    """Return what else lies in DATA that may hold its labels, and what to do with it; empty if nothing is known."""
    found: dict[str, list[str]] = {}
    for path in _paths(root):
        words = next((words for pattern, words in _CLUES if pattern.fullmatch(path.lower())), "")
        if words := words or _no_table(root, path):
            found.setdefault(words, []).append(printable(path))
    return "; ".join(f"found {first_few(paths, 2)}: {words}" for words, paths in list(found.items())[:_MOST_CLUES])


def _class_in_names(root: Path, folder: Path) -> str:
    """Return how to make a table where the names of a folder's images begin with their classes; else nothing."""
    names = [entry.name for entry in list_folder(folder, ".", ScanNotes())][:_MOST_LOOKED_AT]
    matches = [_NUMBERED.fullmatch(name) for name in names]
    classes = {match[1] for match in matches if match}
    if not all(matches) or not 1 < len(classes) <= len(names) // 2:
        return ""
    path = folder.relative_to(root)
    rows = f"ls {as_word(path)} | sed -E 's|(.*)[-_.][0-9]+[.][A-Za-z]+|{path}/&,\\1|'"
    return (
        f"if names begin with the class, as {printable(names[0])} with {printable(sorted(classes)[0])}, make a table: "
        f"(echo path,label; {rows}) > labels.csv, in DATA"
    )


def _paths(root: Path) -> Iterator[str]:
    for entry in list(list_folder(root, ".", ScanNotes()))[:_MOST_LOOKED_AT]:
        if not is_folder(entry):
            yield entry.name
    for folder in folder_names(root)[:_MOST_LOOKED_AT]:
        for entry in list(list_folder(root, folder, ScanNotes()))[:_MOST_LOOKED_AT]:
            if not is_folder(entry):
                yield f"{folder}/{entry.name}"


def _no_table(root: Path, path: str) -> str:
    if "/" in path or not path.lower().endswith(TEXT_ENDINGS):
        return ""
    columns = [printable(name) for name in columns_on_disk(root / path)]
    has = f"has the columns {first_few(columns, 6)}, and none" if columns else "has no column that"
    return f"it {has} names a file that is there; {_WRITE_TABLE}"
