"""The same generated images in every form that people have them in."""

import csv
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("daisy", "rose", "tulip", "waterlily")
SPLIT_FOLDERS = {"train": "training", "val": "valid", "test": "test"}
Images = list[tuple[str, str, str, bytes]]  # split, class, name, bytes


def jpeg(seed: int, side: int = 24) -> bytes:
    """Return a small picture that differs for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def make_images(count: int) -> Images:
    """Return images of all classes without a split; class and number are in no order that a layout could lean on."""
    return [("", CLASSES[n * 7 % 4], f"img_{n * 37 % count:04d}.jpg", jpeg(n)) for n in range(count)]


def put(path: Path, data: bytes | str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def root_folders(root: Path, images: Images) -> None:
    """CLASS/NAME."""
    for _, label, name, data in images:
        put(root / label / name, data)


def split_folders(root: Path, images: Images) -> None:
    """training/CLASS/NAME, valid/, test/."""
    for split, label, name, data in images:
        put(root / SPLIT_FOLDERS[split] / label / name, data)


def csv_table(root: Path, images: Images) -> None:
    """labels.csv with BOM, CRLF and quotes, and one folder of images."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(["path", "label", "split"])
    for split, label, name, data in images:
        put(root / "images" / name, data)
        writer.writerow([f"images/{name}", label, split])
    put(root / "labels.csv", b"\xef\xbb\xbf" + text.getvalue().encode())


def metadata(root: Path, images: Images) -> None:
    """SPLIT/metadata.jsonl beside flat images, or one at the root: Hugging Face's imagefolder."""
    lines: dict[Path, list[str]] = {}
    for split, label, name, data in images:
        folder = root / SPLIT_FOLDERS[split] if split else root
        put(folder / name, data)
        lines.setdefault(folder, []).append(json.dumps({"file_name": name, "label": label}))
    for folder, each in lines.items():
        put(folder / "metadata.jsonl", "\n".join(each) + "\n")


def _schema() -> pa.Schema:
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.schema([("image", struct), ("label", pa.int64())], metadata=about)


def _batches(images: Images) -> Iterator[tuple[str, pa.Table]]:
    for split in sorted({image[0] for image in images}):
        chosen = [image for image in images if image[0] == split]
        column = [{"bytes": data, "path": name} for _, _, name, data in chosen]
        labels = [CLASSES.index(label) for _, label, _, _ in chosen]
        yield split, pa.table({"image": column, "label": labels}, schema=_schema())


def parquet(root: Path, images: Images) -> None:
    """data/train-00000-of-00002.parquet and so on, as Hugging Face ships them."""
    for split, table in _batches(images):
        (root / "data").mkdir(parents=True, exist_ok=True)
        half = len(table) // 2
        word = {"": "all", "val": "validation"}.get(split, split)
        for number, part in enumerate((table[:half], table[half:])):
            pq.write_table(part, root / "data" / f"{word}-{number:05d}-of-00002.parquet", row_group_size=50)


def saved(root: Path, images: Images) -> None:
    """A data set or a dictionary of them, as `save_to_disk` writes it."""
    names = []
    for split, table in _batches(images):
        word = {"val": "validation"}.get(split, split)
        folder = root / word
        folder.mkdir(parents=True)
        with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as stream:
            stream.write_table(table, max_chunksize=70)
        put(folder / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
        names.append(word)
    if names != [""]:
        put(root / "dataset_dict.json", json.dumps({"splits": names}))


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def webdataset(root: Path, images: Images) -> None:
    """SPLIT/0.tar, SPLIT/1.tar with KEY.jpg and KEY.cls, and classnames.txt."""
    put(root / "classnames.txt", "".join(f"{name}\n" for name in CLASSES))
    for split in {image[0] for image in images}:
        chosen = [image for image in images if image[0] == split]
        (root / split).mkdir(exist_ok=True)
        for shard in range(2):
            with tarfile.open(root / split / f"{shard}.tar", "w") as tar:
                for _, label, name, data in chosen[shard::2]:
                    add(tar, name, data)
                    add(tar, f"{name.partition('.')[0]}.cls", str(CLASSES.index(label)).encode())


def tar_gz(root: Path, images: Images) -> None:
    """flowers.tar.gz of class folders, with folders of splits, if any."""
    root.mkdir(parents=True)
    with tarfile.open(root / "flowers.tar.gz", "w:gz") as tar:
        for split, label, name, data in reversed(images):
            add(tar, "/".join(filter(None, ("./flowers", split, label, name))), data)


def zipped(root: Path, images: Images) -> None:
    """flowers.zip of class folders, with folders of splits, if any, and what macOS adds."""
    root.mkdir(parents=True)
    with zipfile.ZipFile(root / "flowers.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for split, label, name, data in reversed(images):
            file.writestr("/".join(filter(None, ("flowers", split, label, name))), data)
            file.writestr("/".join(filter(None, ("__MACOSX/flowers", split, label, f"._{name}"))), b"\0\5\x16\7")
        file.writestr("flowers/.DS_Store", b"\0")
        file.writestr("LICENSE", "flowers")


def zip_and_csv(root: Path, images: Images) -> None:
    """images.zip, not compressed, and labels.csv beside it."""
    lines = ["path,label,split", *(f"images/{name},{label},{split}" for split, label, name, _ in images)]
    put(root / "labels.csv", "\n".join(lines) + "\n")
    with zipfile.ZipFile(root / "images.zip", "w") as file:
        for _, _, name, data in images:
            file.writestr(name, data)


FORMS: dict[str, Callable[[Path, Images], None]] = {
    "root folders": root_folders,
    "csv": csv_table,
    "metadata.jsonl": metadata,
    "parquet": parquet,
    "save_to_disk": saved,
    "webdataset": webdataset,
    "tar.gz": tar_gz,
    "zip": zipped,
    "zip and csv": zip_and_csv,
    "split folders": split_folders,
}


def with_splits(images: Images, split_of: dict[str, str]) -> Images:
    """Return the images with the splits of their names."""
    return [(split_of[f"{label}/{name}"], label, name, data) for _, label, name, data in images]


def fresh(root: Path) -> Path:
    """Return an empty path."""
    shutil.rmtree(root, ignore_errors=True)
    return root
