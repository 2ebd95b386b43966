"""The index of an opened RECORDS directory, a row found in it by its key, and the description of a row in words."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.records.image_headers import inspect_image
from convnext_imagenet.records.index import INDEX_FILE, read_columns
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import HOW_TO_REPAIR, Row

_ENDINGS = {"jpeg": (".jpg", ".jpeg"), "png": (".png",), "webp": (".webp",)}

if TYPE_CHECKING:  # importing it loads MindSpore, which takes seconds
    from convnext_imagenet.records.reader import Records


def read_index(records: "Records", columns: Sequence[str]) -> pa.Table:
    """Return some columns of index.parquet. Raises ArtefactError unless its SHA-256 is the manifest's."""
    path = records.root / INDEX_FILE
    recorded = records.manifest.files.get(INDEX_FILE)
    if not path.is_file() or sha256_file(path) != recorded:
        raise ArtefactError(f"{path}: missing or changed since the records were finished; {HOW_TO_REPAIR}")
    return read_columns(path, columns)


def find_key(records: "Records", key: str) -> tuple[str, int]:
    """Return the split, and the position in it (0..rows-1), of the row with this key.

    Raises ArtefactError for an unknown key and a changed index.
    """
    index = read_index(records, ("split", "key"))
    for split in records.manifest.splits:
        keys = index.filter(pc.equal(index["split"], split))["key"]
        if (row := pc.index(keys, key).as_py()) >= 0:
            return split, row
    raise ArtefactError(f"--sample {key}: no such row; {records.root / INDEX_FILE} lists all keys")


def describe_row(row: Row, title: str, classes: Sequence[ClassEntry]) -> str:
    """Return all fields of a row as lines of text; the first has `title` and the row's key.

    Raises BadImage when the image has no valid header.
    """
    entry, info = classes[row.label], inspect_image(row.image)
    lines = {
        "label": f"{entry.index}  {entry.wnid}  {entry.name}",
        "image": f"{info.format}, {row.width} x {row.height} px, {info.mode}, {len(row.image):,} bytes",
        "sha256": hashlib.sha256(row.image).hexdigest(),
        "sample_id": str(row.sample_id),
    }
    return "\n".join([f"{title}  {row.key}", *(f"  {name:<9}  {value}" for name, value in lines.items())])


def require_ending(path: Path, image: bytes) -> None:
    """Raise ArtefactError unless the name of a file ends as the kind of its image, as viewers expect."""
    kind = inspect_image(image).format
    if path.suffix.lower() not in _ENDINGS[kind]:
        better = path.with_suffix(_ENDINGS[kind][0]).name
        raise ArtefactError(f"{path}: the image is stored as {kind.upper()}; name the file {better}")
