"""Layouts of public image sets, as their archives unpack, with a few small images in place of theirs.

A value is the content of a text file, or the seed of an image; a name that ends in .zip has a dictionary of members.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ..own_images import jpeg, put

Content = int | str | bytes | Mapping[str, "Content"]
Layout = dict[str, Content]


def images(pattern: str, count: int = 3, first: int = 0) -> Layout:
    """Return `count` images whose names are the pattern with a number in it."""
    return {pattern.format(number): hash_of(pattern) + number for number in range(first, first + count)}


def hash_of(text: str) -> int:
    """Return a seed that differs for different patterns."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(text)) % 2**30


def of_classes(above: str, names: str, count: int = 3) -> Layout:
    """Return class folders."""
    return {path: seed for name in names.split() for path, seed in images(f"{above}{name}/{{:04d}}.jpg", count).items()}


def lines(*rows: str) -> str:
    """Return a text file."""
    return "\n".join(rows) + "\n"


def write(root: Path, layout: Mapping[str, Content]) -> None:
    """Write a layout into a folder."""
    for name, content in layout.items():
        put(root / name, as_bytes(content))


def as_bytes(content: Content) -> bytes:
    """Return the content of a file."""
    if isinstance(content, Mapping):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, inner in content.items():
                file.writestr(name, as_bytes(inner))
        return buffer.getvalue()
    if isinstance(content, int):
        return jpeg(content)
    return content.encode() if isinstance(content, str) else content


_CATS_AND_DOGS = images("train/cat.{}.jpg") | images("train/dog.{}.jpg")
_TEST = images("test/{}.jpg")
_COCO = json.dumps({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "category_id": 1}]})
_SIGNS = lines("Width,Height,ClassId,Path", *(f"27,26,{n % 12},Train/{n % 12}/{n:05d}.png" for n in range(36)))

LAYOUTS: dict[str, Layout] = {
    "dogs vs cats, unpacked": _CATS_AND_DOGS | images("test1/{}.jpg"),
    "dogs vs cats, one zip": {
        "dogs-vs-cats.zip": {"train.zip": _CATS_AND_DOGS, "test1.zip": _TEST, "sampleSubmission.csv": "id,label\n1,0\n"}
    },
    "dogs vs cats, its zips": {"train.zip": _CATS_AND_DOGS, "test1.zip": images("test1/{}.jpg")},
    "CIFAR-10 as folders": of_classes("cifar10/train/", "frog ship", 12) | of_classes("cifar10/test/", "frog ship"),
    "CIFAR-10 of Kaggle": images("train/{}.png", 6, 1)
    | {"trainLabels.csv": lines("id,label", *(f"{n},{'frog' if n % 2 else 'ship'}" for n in range(1, 7)))},
    "CIFAR-10 pickled": {"cifar-10-batches-py/data_batch_1": b"\x80\2}", "cifar-10-batches-py/batches.meta": b"\x80"},
    "MNIST": {"train-images-idx3-ubyte.gz": b"\x1f\x8b", "train-labels-idx1-ubyte.gz": b"\x1f\x8b"},
    "Food-101": of_classes("images/", "apple_pie waffles", 4)
    | {
        "meta/train.txt": lines("apple_pie/0000", "apple_pie/0001", "waffles/0000", "waffles/0001"),
        "meta/test.txt": lines("apple_pie/0002", "apple_pie/0003", "waffles/0002", "waffles/0003"),
        "meta/classes.txt": lines("apple_pie", "waffles"),
        "meta/labels.txt": lines("Apple pie", "Waffles"),
    },
    "Oxford pets": images("images/Abyssinian_{}.jpg")
    | images("images/beagle_{}.jpg")
    | {"annotations/trainval.txt": lines("Abyssinian_1 1 1 1", "beagle_1 2 2 1"), "annotations/README": "pets"},
    "Stanford cars": images("cars_train/{:05d}.jpg")
    | images("cars_test/{:05d}.jpg")
    | {"devkit/cars_train_annos.mat": b"MATLAB 5.0 MAT-file", "devkit/cars_meta.mat": b"MATLAB 5.0 MAT-file"},
    "Flowers-102": images("jpg/image_{:05d}.jpg") | {"imagelabels.mat": b"MATLAB 5.0", "setid.mat": b"MATLAB 5.0"},
    "CUB-200": of_classes("images/", "001.Albatross 002.Auk", 4)
    | {
        "images.txt": lines(*(f"{n + 1} images/{n}.jpg" for n in range(8))),
        "image_class_labels.txt": lines(*(f"{n + 1} {n // 4 + 1}" for n in range(8))),
        "train_test_split.txt": lines(*(f"{n + 1} {n % 2}" for n in range(8))),
        "classes.txt": lines("1 001.Albatross", "2 002.Auk"),
        "README": "birds",
    },
    "EuroSAT": of_classes("2750/", "AnnualCrop Forest", 4),
    "EuroSAT, zip": {"EuroSAT.zip": of_classes("2750/", "AnnualCrop Forest", 4)},
    "GTSRB": images("Test/{:05d}.png", 2)
    | {f"Train/{n % 12}/{n:05d}.png": n for n in range(36)}
    | {"Train.csv": _SIGNS},
    "GTSRB, complete": images("Test/{:05d}.png", 2)
    | images("Meta/{}.png", 2)
    | {f"Train/{n % 12}/{n:05d}.png": n for n in range(36)}
    | {
        "Train.csv": _SIGNS,
        "Test.csv": lines("Width,ClassId,Path", "27,1,Test/00000.png", "27,2,Test/00001.png"),
        "Meta.csv": lines("Path,ClassId", "Meta/0.png,0", "Meta/1.png,1"),
    },
    "iNaturalist 2018": of_classes("train_val2018/Aves/", "2761 2762")
    | {"train2018.json": _COCO, "val2018.json": _COCO},
    "iNaturalist 2021": of_classes("train/", "00000_Animalia_a 00001_Animalia_b") | {"train.json": _COCO},
    "iNaturalist 2018, inside": of_classes("Aves/", "2761 2762") | of_classes("Fungi/", "12 13"),
    "lists of Caffe": images("images/{}.jpg") | {"train.txt": "images/0.jpg 0\n", "val.txt": "images/1.jpg 1\n"},
    "a compressed table": images("images/{}.jpg") | {"labels.csv.gz": "\x1f"},
    "COCO": images("train2017/{:012d}.jpg")
    | images("val2017/{:012d}.jpg")
    | {"annotations/instances_train2017.json": _COCO},
    "COCO of Roboflow": images("train/{}.jpg") | images("valid/{}.jpg") | {"train/_annotations.coco.json": _COCO},
    "YOLO": images("images/train/{}.jpg")
    | images("images/val/{}.jpg")
    | {"labels/train/0.txt": "0 0.5 0.5 1 1\n", "data.yaml": "nc: 1\n"},
    "YOLO of Roboflow": images("train/images/{}.jpg")
    | images("valid/images/{}.jpg")
    | {"train/labels/0.txt": "0 0.5 0.5 1 1\n", "valid/labels/0.txt": "0 0.5 0.5 1 1\n", "data.yaml": "nc: 1\n"},
    "YOLO of Roboflow, zip": {"a.zip": images("train/images/{}.jpg") | {"train/labels/0.txt": "0 0.5 0.5 1 1\n"}},
    "Pascal VOC": images("VOC2012/JPEGImages/{}.jpg")
    | {"VOC2012/Annotations/0.xml": "<annotation/>", "VOC2012/ImageSets/Main/train.txt": "0\n"},
    "Roboflow, folders": of_classes("train/", "a b")
    | of_classes("valid/", "a b")
    | of_classes("test/", "a b")
    | {"README.roboflow.txt": "x", "README.dataset.txt": "x"},
    "Roboflow, several labels": images("train/{}.jpg")
    | images("valid/{}.jpg")
    | {
        "train/_classes.csv": lines("filename, a, b", "0.jpg, 1, 0", "1.jpg, 0, 1", "2.jpg, 1, 1"),
        "valid/_classes.csv": lines("filename, a, b", "0.jpg, 1, 0"),
    },
    "imagefolder, metadata.csv in splits": images("train/{:04d}.png", 4)
    | images("test/{:04d}.png", 2)
    | {
        "train/metadata.csv": lines("file_name,label", *(f"{n:04d}.png,{n % 2}" for n in range(4))),
        "test/metadata.csv": lines("file_name,label", *(f"{n:04d}.png,{n % 2}" for n in range(2))),
    },
    "imagefolder, metadata.csv at the root": images("data/{:04d}.png", 8)
    | {"metadata.csv": lines("file_name,label", *(f"data/{n:04d}.png,{n % 2}" for n in range(8)))},
    "captions in JSON lines": images("images/{}.jpg")
    | {"data.jsonl": lines(*(json.dumps({"image": f"images/{n}.jpg", "question": "?"}) for n in range(3)))},
    "patients": images("scans/{:03d}.png", 12)
    | {
        "labels.csv": lines(
            "patient_id,image_path,diagnosis",
            *(f"p{n // 2},scans/{n:03d}.png,{'ill' if n < 6 else 'well'}" for n in range(12)),
        )
    },
    "HAM10000": images("HAM10000_images_part_1/ISIC_{:07d}.jpg", 4)
    | {"HAM10000_metadata.csv": lines("lesion_id,image_id,dx", *(f"L{n},ISIC_{n:07d},nv" for n in range(4)))},
    "dog breeds": images("train/{:032x}.jpg", 4)
    | _TEST
    | {"labels.csv": lines("id,breed", *(f"{n:032x},pug" for n in range(4)))},
    "plant pathology": images("images/Train_{}.jpg", 4)
    | {"train.csv": lines("image_id,healthy,rust", *(f"Train_{n},{n % 2},{1 - n % 2}" for n in range(4)))},
    "cassava": images("train_images/{}.jpg", 8)
    | {
        "train.csv": lines("image_id,label", *(f"{n}.jpg,{n % 2}" for n in range(8))),
        "sample_submission.csv": "image_id,label\n",
    },
    "cassava, zip": {
        "cassava.zip": images("train_images/{}.jpg", 8),
        "train.csv": lines("image_id,label", *(f"{n}.jpg,{n % 2}" for n in range(8))),
    },
    "Kaggle's zips of splits": {"train.zip": of_classes("train/", "cat dog"), "test.zip": images("test/{}.jpg")},
    "a zip whose folder names another split": {"test-data.zip": of_classes("train/", "x y")},
    "Kaggle's ImageNet, zip": {"imagenet-object-localization-challenge.zip": images("ILSVRC/Data/CLS-LOC/val/{}.JPEG")},
    "Parquet in a zip": {"a.zip": {"data/train-0.parquet": b"PAR1"}},
    "Caltech-101": of_classes("101_ObjectCategories/", "accordion BACKGROUND_Google"),
    "DTD": of_classes("images/", "banded dotted")
    | {"labels/train1.txt": "banded/banded_0002.jpg\n", "imdb/imdb.mat": b"M"},
    "Places365": of_classes("train/", "airfield alley") | of_classes("val/", "airfield alley"),
    "Intel scenes": of_classes("seg_train/seg_train/", "forest sea")
    | of_classes("seg_test/seg_test/", "forest sea")
    | images("seg_pred/seg_pred/{}.jpg"),
    "chest X-rays": of_classes("chest_xray/train/", "NORMAL PNEUMONIA")
    | of_classes("chest_xray/val/", "NORMAL PNEUMONIA")
    | of_classes("chest_xray/test/", "NORMAL PNEUMONIA")
    | {"chest_xray/__MACOSX/._x": "x", "chest_xray/.DS_Store": "x"},
    "chest X-rays, zip": {
        "archive.zip": of_classes("chest_xray/train/", "NORMAL PNEUMONIA")
        | of_classes("chest_xray/val/", "NORMAL PNEUMONIA")
        | of_classes("chest_xray/test/", "NORMAL PNEUMONIA")
    },
    "LFW": of_classes("lfw/", "George_Bush Tony_Blair", 2) | {"lfw/Al_Gore/0001.jpg": 1},
    "FGVC Aircraft": images("data/images/{:07d}.jpg") | {"data/images_variant_train.txt": "0000001 707-320\n"},
    "SUN397": of_classes("SUN397/a/", "abbey alley") | of_classes("SUN397/b/", "beach"),
    "img2dataset": images("00000/{:09d}.jpg") | {"00000_stats.csv": "count\n3\n"},
    "TFRecord": {"train-00000-of-00002": b"\0" * 64, "train-00001-of-00002": b"\0" * 64},
    "NumPy arrays": {"train_images.npy": b"\x93NUMPY", "train_labels.npy": b"\x93NUMPY"},
    "pixels in a CSV": {"fer2013.csv": lines("emotion,pixels,Usage", "0,70 80 82,Training")},
    "ImageNet-A": of_classes("imagenet-a/", "n01498041 n01531178") | {"imagenet-a/README.txt": "x"},
    "ImageNet-V2": of_classes("imagenetv2-matched-frequency-format-val/", "0 1 2 10"),
    "ImageNet-Sketch, zip": {"ImageNet-Sketch.zip": of_classes("sketch/", "n01440764 n01443537")},
    "ImageNet-21k": of_classes("imagenet21k_train/", "n00005787") | of_classes("imagenet21k_val/", "n00005787"),
    "a zip of Windows, unpacked wrongly": images(r"train\daisy\{}.jpg"),
    "a RAR": {"flowers.rar": b"Rar!"},
    "a part of a zip": {"flowers.zip.001": b"PK", "flowers.zip.002": b"PK"},
}
