"""What is audited: finished RECORDS, or a folder of image files whose folders are the classes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_json
from convnext_imagenet.records.audit.stored import StoredPictures, open_pictures, pictures_version
from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage, too_large
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.row_lookup import read_index
from convnext_imagenet.records.schema import SMALL_VERSION

SPLITS = ("train", "val", "test")
ROW_SCHEMA = pa.schema(
    {"split": pa.string(), "key": pa.string(), "sample_id": pa.int64(), "label": pa.int32(), "wnid": pa.string()}
)


class Source(Protocol):
    """Images in a fixed order, by number from 0; another set of images has another `identity`."""

    @property
    def rows(self) -> pa.Table:
        """Return split, key, sample_id, label and wnid of each image, as ROW_SCHEMA; the last two may be null."""

    @property
    def wnids(self) -> list[str]:
        """Return the name of each class by index."""

    @property
    def class_names(self) -> list[str]:
        """Return for each class by index what people call it, "" if that is its wnid."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return what identifies the images, as JSON."""

    @property
    def pictures(self) -> StoredPictures | None:
        """Return the small pictures that are stored with the images; None if all images are to be decoded."""

    def read(self, numbers: Sequence[int]) -> Iterator[bytes | BadImage]:
        """Yield the bytes of the images with these rising numbers, or why they cannot be read."""


@dataclass(frozen=True)
class RecordsSource:
    """All splits of RECORDS that have rows, in stored order."""

    records: Records
    rows: pa.Table
    pictures: StoredPictures | None = None

    @property
    def wnids(self) -> list[str]:
        """Return the wnid of each class by index."""
        return [entry.wnid for entry in self.records.classes]

    @property
    def class_names(self) -> list[str]:
        """Return for each class by index what people call it, "" if that is its wnid."""
        return ["" if entry.name == entry.wnid else entry.name for entry in self.records.classes]

    @property
    def identity(self) -> dict[str, Any]:
        """Return the digest of the manifest, which has one of every shard, and of the raw tree if it is known."""
        source = self.records.manifest.source
        return {
            "kind": "records",
            "manifest_sha256": self.records.manifest_sha256,
            "fingerprint": source.get("fingerprint", {}),
        }

    def read(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """Yield the stored images with these rising numbers."""
        first, wanted = 0, np.asarray(numbers, np.int64)
        for name, entry in self.records.manifest.splits.items():
            inside = wanted[(wanted >= first) & (wanted < first + entry.rows)] - first
            if len(inside):
                for row in self.records.split(name).read(inside, ("image",)):
                    yield row["image"]
            first += entry.rows


@dataclass(frozen=True)
class FolderSource:
    """Every visible file under a folder, by the bytes of its path."""

    root: Path
    rows: pa.Table
    identity: dict[str, Any]
    pictures: None = None

    @property
    def wnids(self) -> list[str]:
        """Return the folders that hold images, by index."""
        return sorted(set(self.rows["wnid"].drop_null().to_pylist()))

    @property
    def class_names(self) -> list[str]:
        """Return no names: a folder has only its own."""
        return [""] * len(self.wnids)

    def read(self, numbers: Sequence[int]) -> Iterator[bytes | BadImage]:
        """Yield the bytes of the files with these rising numbers, or why they cannot be read."""
        for key in self.rows["key"].take(pa.array(numbers, pa.int64())).to_pylist():
            yield _read_file(self.root / key)


def image_name(split: str, key: str) -> str:
    """Return an image as SPLIT/KEY; the key of a file in a folder is its path, which has the split already."""
    return key if not split or key.startswith(f"{split}/") else f"{split}/{key}"


def open_source(root: Path, uses_pictures: bool = True) -> Source:
    """Return finished RECORDS or a folder of files, with stored pictures if they are to be used.

    Raises ArtefactError when there is neither, or no image in it, and for stored pictures that are damaged.
    """
    if (root / "plan.json").is_file() or (root / "manifest.json").is_file():
        return open_records(Records.open(root), uses_pictures)
    if not root.is_dir():
        raise ArtefactError(f"{root}: no such directory, expected RECORDS or a folder of images")
    return _open_folder(root)


def open_records(records: Records, uses_pictures: bool = True) -> RecordsSource:
    """Return opened RECORDS as a source. Raises ArtefactError when its index or its stored pictures were changed."""
    index = read_index(records, ROW_SCHEMA.names)
    parts = [index.filter(pc.equal(index["split"], name)) for name in records.manifest.splits]
    rows = pa.concat_tables(parts).cast(ROW_SCHEMA).combine_chunks()
    return RecordsSource(records, rows, open_pictures(records) if uses_pictures else None)


def unused_pictures(source: Source) -> str | None:
    """Return a line for RECORDS whose stored pictures are of a version that this program does not use."""
    if not isinstance(source, RecordsSource) or source.pictures is not None:
        return None
    version = pictures_version(source.records)
    if version is None:
        return None
    return (
        f"{source.records.root}: its small pictures are of version {version}, this program uses {SMALL_VERSION}; "
        f"every image is decoded"
    )


def _open_folder(root: Path) -> FolderSource:
    keys = sorted(_files(root), key=os.fsencode)
    if not keys:
        raise ArtefactError(f"{root}: holds no visible file, expected RECORDS or a folder of images")
    parts = [Path(key).parts for key in keys]
    splits = [part[0] if part[0] in SPLITS and len(part) > 1 else "" for part in parts]
    # A file beside the class folders, or at once in val/, has no class.
    folders = [part[-2] if len(part) > (2 if split else 1) else None for part, split in zip(parts, splits, strict=True)]
    numbers = {name: number for number, name in enumerate(sorted({name for name in folders if name}))}
    columns = {
        "split": splits,
        "key": keys,
        "sample_id": list(range(len(keys))),
        "label": [None if name is None else numbers[name] for name in folders],
        "wnid": folders,
    }
    sizes = [(root / key).stat().st_size for key in keys]
    identity = {"kind": "folder", "files": len(keys), "sha256": sha256_json([keys, sizes])}
    return FolderSource(root, pa.table(columns, schema=ROW_SCHEMA), identity)


def _files(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield str(path.relative_to(root))


def _read_file(path: Path) -> bytes | BadImage:
    try:
        size = path.stat().st_size
        return too_large(size) if size > LARGEST_FILE_BYTES else path.read_bytes()
    except OSError as error:
        return BadImage("not_a_file", error.strerror or "cannot be read")
