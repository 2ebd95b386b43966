"""One shard of RECORDS in another format, the bytes of its images untouched; equal rows give equal bytes.

Knows nothing of plans, receipts and folders beside the one that it writes into.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records.manifest import ClassEntry, Manifest

_ROWS_PER_GROUP = 100  # as Hugging Face writes images: a reader of one row decodes about 10 MB
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class ExportRow:
    """What an export holds of a stored image."""

    key: str
    label: int
    image: bytes


@dataclass(frozen=True)
class Format:
    """A format: the ending of the file of a shard, empty if each image is a file; `write` writes it to a path."""

    ending: str
    write: Callable[[Path, Iterable[ExportRow], Manifest], None]


def write_parquet(path: Path, rows: Iterable[ExportRow], manifest: Manifest) -> None:
    """Write a Parquet file that `datasets` reads with its features: image (bytes and path), label and key."""
    schema = parquet_schema(manifest.classes)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for group in _groups(rows, _ROWS_PER_GROUP):
            images = [{"bytes": row.image, "path": f"{row.key}.{image_ending(row.image)}"} for row in group]
            columns = [images, [row.label for row in group], [row.key for row in group]]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=_ROWS_PER_GROUP)


def parquet_schema(classes: Sequence[ClassEntry]) -> pa.Schema:
    """Return the columns, and in their metadata what Hugging Face's `datasets` calls features."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": label_names(classes), "_type": "ClassLabel"},
        "key": {"dtype": "string", "_type": "Value"},
    }
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)}
    return pa.schema({"image": image, "label": pa.int64(), "key": pa.string()}, metadata=metadata)


def label_names(classes: Sequence[ClassEntry]) -> list[str]:
    """Return the names of the classes by index; two classes of one name get their wnids behind it."""
    names = [entry.name for entry in classes]
    return [entry.name if names.count(entry.name) == 1 else f"{entry.name} ({entry.wnid})" for entry in classes]


def write_tar(path: Path, rows: Iterable[ExportRow], manifest: Manifest) -> None:
    """Write a tar as webdataset reads it: KEY.jpg or KEY.png, and KEY.cls with the class index, for each row."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for row in rows:
            name = tar_key(row.key)
            _add(archive, f"{name}.{image_ending(row.image)}", row.image)
            _add(archive, f"{name}.cls", str(row.label).encode())


def tar_key(key: str) -> str:
    """Return a key as the name of a sample: webdataset ends it at the first dot of the last part of the path."""
    folder, _, name = key.rpartition("/")
    name = name.replace("%", "%25").replace(".", "%2E")
    return f"{folder}/{name}" if folder else name


def write_folder(root: Path, rows: Iterable[ExportRow], manifest: Manifest) -> None:
    """Write each image as a file below `root`, in the folder of its class, named as ingest reads it again."""
    made: set[Path] = set()
    for row in rows:
        path = root / folder_name(row.key, row.label, manifest)
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(row.image)


def folder_name(key: str, label: int, manifest: Manifest) -> str:
    """Return the path of an image below its split.

    Keys of unverified records are such paths; of others, the class folder is added, and ImageNet's ending, which all of
    its files have, PNG too. Raises ArtefactError for a key that would lead out of the folder.
    """
    name = f"{manifest.classes[label].wnid}/{key}.JPEG" if manifest.source.get("verified") else key
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "/".join(parts) != name or ".." in parts or len(parts) < 2:
        raise ArtefactError(f"key {key!r}: cannot be a path in a class folder; export to parquet or webdataset instead")
    return name


def image_ending(image: bytes) -> str:
    """Return png or jpg: RECORDS hold no other kind."""
    return "png" if image.startswith(_PNG_SIGNATURE) else "jpg"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # owner, group and time are 0
    entry.size, entry.mode = len(data), 0o644
    archive.addfile(entry, io.BytesIO(data))


def _groups(rows: Iterable[ExportRow], size: int) -> Iterator[list[ExportRow]]:
    group: list[ExportRow] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


FORMATS: dict[str, Format] = {
    "parquet": Format("parquet", write_parquet),
    "webdataset": Format("tar", write_tar),
    "folder": Format("", write_folder),
}
