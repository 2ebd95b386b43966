"""Layouts of public image sets are read rightly, or refused by a line that names what was found and what to do."""

import re
import subprocess
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.labels.given import Wishes
from convnext_imagenet.ingest.make_plan import make_given_plan
from convnext_imagenet.ingest.source.detect import scan_data
from convnext_imagenet.ingest.source.samples import SampleTree
from convnext_imagenet.ingest.source.unpack import Unpacker

from ..own_images import jpeg, put
from .public_layouts import LAYOUTS, Layout, images, lines, of_classes, write

# Classes, images by split, and the number of images without a label.
READ = {
    "CIFAR-10 of Kaggle": ("frog ship", {"train": 4, "val": 2}, 0),
    "EuroSAT, zip": ("AnnualCrop Forest", {"train": 6, "val": 2}, 0),
    "GTSRB": (" ".join(map(str, range(12))), {"train": 24, "val": 12}, 2),
    "iNaturalist 2021": ("00000_Animalia_a 00001_Animalia_b", {"train": 4, "val": 2}, 0),
    "Roboflow, folders": ("a b", {"train": 6, "val": 6, "test": 6}, 0),
    "imagefolder, metadata.csv in splits": ("0 1", {"train": 2, "val": 2, "test": 2}, 0),
    "imagefolder, metadata.csv at the root": ("0 1", {"train": 6, "val": 2}, 0),
    "cassava": ("0 1", {"train": 5, "val": 3}, 0),
    "cassava, zip": ("0 1", {"train": 5, "val": 3}, 0),
    "Places365": ("airfield alley", {"train": 6, "val": 6}, 0),
    "chest X-rays, zip": ("NORMAL PNEUMONIA", {"train": 6, "val": 6, "test": 6}, 0),
    "a zip whose folder names another split": ("x y", {"train": 4, "val": 2}, 0),
    "Kaggle's zips of splits": ("cat dog", {"train": 4, "val": 2}, 3),
}
REFUSED = {
    "dogs vs cats, unpacked": r"train: contains images outside class folders.*as cat\.0\.jpg with cat, make a table",
    "dogs vs cats, one zip": r"dogs-vs-cats\.zip: contains train\.zip, test1\.zip, an archive in an archive; unpack",
    "dogs vs cats, its zips": r"train\.zip: train/cat\.0\.jpg is in no class folder.*put a CSV of path",
    "CIFAR-10 as folders": r"contains only the folder cifar10, and in it the folders test, train; pass .*cifar10",
    "CIFAR-10 pickled": r"batches-py: no class.*data_batch_1: CIFAR's arrays of pixels; write the images as PNG",
    "MNIST": r"no known layout; found train-images-idx3-ubyte\.gz.*MNIST's arrays.*write the images as PNG",
    "Food-101": r"images, meta: no class.*found meta/classes\.txt.*write a CSV .*apple_pie, waffles.*pass .*/images",
    "Oxford pets": r"annotations, images: no class.*trainval\.txt.*Abyssinian_0\.jpg with Abyssinian, make a table",
    "Stanford cars": r"devkit: no class.*cars_meta\.mat.*MATLAB's format, which scipy\.io\.loadmat reads; write a CSV",
    "Flowers-102": r"jpg: no class.*found imagelabels\.mat, setid\.mat",
    "CUB-200": r"contains only the folder images, and in it the folders 001\.Albatross, 002\.Auk; pass .*/images",
    "EuroSAT": r"contains only the folder 2750.*pass .*/2750",
    "GTSRB, complete": r"several tables of images, Meta\.csv, Test\.csv, Train\.csv; keep one, or name them by",
    "iNaturalist 2018": r"contains only the folder train_val2018, and in it the folders Aves; pass",
    "iNaturalist 2018, inside": r"2761: a folder inside.*if Aves is a split.*above the classes, pass it as DATA",
    "lists of Caffe": r"images: no class.*found train\.txt, val\.txt: lists in a format of their own",
    "a compressed table": r"images: no class.*found labels\.csv\.gz: a compressed table; unpack it",
    "COCO": r"annotations, train2017, val2017: no class.*instances_train2017\.json: COCO's labels of objects",
    "COCO of Roboflow": r"train: contains images outside.*_annotations\.coco\.json: COCO's labels of objects",
    "YOLO": r"images, labels: no class.*found data\.yaml: YOLO's labels of objects, not of images; write a CSV",
    "YOLO of Roboflow": r"train: images, labels: no class.*found data\.yaml: YOLO's labels of objects",
    "YOLO of Roboflow, zip": r"a\.zip: images, labels: not the name of a class; pack class folders, or unpack it",
    "Pascal VOC": r"contains only the folder VOC2012.*pass .*VOC2012",
    "Roboflow, several labels": r"train: contains images outside.*_classes\.csv: a table of several classes",
    "captions in JSON lines": r"data\.jsonl: has the columns image, question, none of label.*--label-column",
    "patients": r"has the columns patient_id, image_path, diagnosis, none of label.*--label-column",
    "HAM10000": r"metadata\.csv: has the columns lesion_id, image_id, dx, none of label.*--label-column",
    "dog breeds": r"labels\.csv: has the columns id, breed, none of label.*--label-column",
    "plant pathology": r"train\.csv: has the columns image_id, healthy, rust, none of label.*--label-column",
    "Caltech-101": r"contains only the folder 101_ObjectCategories.*pass",
    "DTD": r"images, imdb, labels: no class.*imdb/imdb\.mat.*labels/train1\.txt.*pass .*/images",
    "Intel scenes": r"seg_pred: a folder inside a class folder",
    "chest X-rays": r"contains only the folder chest_xray, and in it the folders test, train, val; pass .*chest_xray",
    "LFW": r"contains only the folder lfw.*pass",
    "FGVC Aircraft": r"contains only the folder data.*pass",
    "SUN397": r"contains only the folder SUN397.*pass",
    "img2dataset": r"00000: no class, .*found 00000_stats\.csv: it has the columns count, and none names a file",
    "TFRecord": r"train-00000-of-00002.*records of another program; write the images as PNG into class folders",
    "NumPy arrays": r"found train_images\.npy, train_labels\.npy: arrays, no image files",
    "pixels in a CSV": r"found fer2013\.csv: it has the columns emotion, pixels, Usage, and none names a file",
    "ImageNet-A": r"contains only the folder imagenet-a.*pass",
    "ImageNet-V2": r"contains only the folder imagenetv2-matched-frequency-format-val.*pass",
    "ImageNet-Sketch, zip": r"its classes are ImageNet's wnids, such as n01440764.*--unverified",
    "ImageNet-21k": r"if imagenet21k_train/ is the split train, rename it to train/, or make a link",
    "a zip of Windows, unpacked wrongly": r"found train.daisy.0\.jpg, .*names with backslashes.*pass the folder",
    "a RAR": r"found flowers\.rar: an archive of a kind that is not read; unpack it",
    "a part of a zip": r"found flowers\.zip\.001, a part of an archive; join the parts first: cat flowers",
    "Kaggle's ImageNet, zip": r"challenge\.zip: ImageNet as Kaggle ships it; unpack it, and pass the folder that holds",
    "Parquet in a zip": r"a\.zip: contains data/train-0\.parquet; unpack it, tables of images are read as files",
}


def _plan(data: Path, unverified: bool = False, **options):
    columns = {name: options.pop(name, "") for name in ("label_column", "group_by")}
    tree = scan_data(data, Unpacker(data.with_name(".unpacked")), unverified=unverified, **columns)
    assert isinstance(tree, SampleTree)
    return tree, make_given_plan(tree, data, "all", unverified, Wishes(**options), seed=0)


def _written(tmp_path: Path, layout: Layout) -> Path:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", layout)
    return tmp_path / "data"


def test_every_layout_is_expected_to_be_read_or_refused():
    assert READ.keys() | REFUSED.keys() == LAYOUTS.keys()
    assert not READ.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", READ)
def test_layout_is_read(tmp_path: Path, name: str):
    classes, counts, unlabelled = READ[name]
    tree, plan = _plan(_written(tmp_path, LAYOUTS[name]))
    assert [entry.name for entry in plan.classes] == classes.split()
    assert {split.name: len(split.paths) for split in plan.splits} == counts
    assert tree.unlabelled.count == unlabelled


@pytest.mark.parametrize("name", REFUSED)
def test_layout_is_refused_by_what_was_found(tmp_path: Path, name: str):
    with pytest.raises(IngestError, match=REFUSED[name]) as refused:
        _plan(_written(tmp_path, LAYOUTS[name]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["dogs vs cats, unpacked", "Oxford pets"])
def test_the_advised_table_leads_out(tmp_path: Path, name: str):
    data = _written(tmp_path, LAYOUTS[name])
    with pytest.raises(IngestError) as refused:
        _plan(data)
    command = re.search(r"make a table: (.*), in DATA", str(refused.value))
    assert command is not None
    subprocess.run(command[1], shell=True, cwd=data, check=True)
    _, plan = _plan(data)
    assert [entry.name for entry in plan.classes] == (["cat", "dog"] if "dogs" in name else ["Abyssinian", "beagle"])
    assert plan.images == 6


def test_patients_stay_on_one_side(tmp_path: Path):
    _, plan = _plan(
        _written(tmp_path, LAYOUTS["patients"]), label_column="diagnosis", group_by="patient_id", val_fraction=0.3
    )
    sides = {}
    for split in plan.splits:
        for path in split.paths:
            sides.setdefault(int(path[-7:-4]) // 2, set()).add(split.name)
    assert len(sides) == 6
    assert [side for side in sides.values() if len(side) != 1] == []


def test_a_name_in_two_folders_is_refused(tmp_path: Path):
    data = _written(tmp_path, LAYOUTS["cassava"] | images("more/{}.jpg", 1))
    with pytest.raises(IngestError, match=r"0\.jpg: may be more/0\.jpg or train_images/0\.jpg; write the folder"):
        _plan(data)


ZIP = of_classes("a/", "x y")
BAD_ZIPS = {
    "a path that leads out": ({"../b/1.jpg": 1}, r"a\.zip: contains '\.\./b/1\.jpg', a path that is absolute or leads"),
    "an absolute path": ({"/etc/1.jpg": 1}, r"a\.zip: contains '/etc/1\.jpg', a path that is absolute or leads out"),
    "an image beside the folders": ({"x/1.jpg": 1, "1.jpg": 2}, r"a\.zip: 1\.jpg is in no class folder"),
    "a folder in a class": ({"a/x/deep/1.jpg": 1}, r"a\.zip: a/x/deep/1\.jpg is in a folder inside the class folder x"),
    "an archive in it": (
        {"more.zip": {}},
        r"a\.zip: contains more\.zip, an archive in an archive; unpack the outer one",
    ),
    "two names of val": (
        {f"a/{split}/x/1.jpg": 1 for split in ("train", "val", "valid")},
        r"a\.zip: val and valid name the same split",
    ),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_a_zip_that_is_not_class_folders_is_refused(tmp_path: Path, case: str):
    more, message = BAD_ZIPS[case]
    with pytest.raises(IngestError, match=message):
        _plan(_written(tmp_path, {"a.zip": more if "x/1.jpg" in str(more) else ZIP | more}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_a_zip_is_refused(tmp_path: Path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x/1.jpg", jpeg(1))
        file.writestr("x/1.jpg", jpeg(2))
    with pytest.raises(IngestError, match=r"a\.zip: contains 'x/1\.jpg' twice; pack it again"):
        _plan(tmp_path)


def test_a_zip_is_passed_by_its_folder(tmp_path: Path):
    write(tmp_path, {"a.zip": ZIP})
    with pytest.raises(IngestError, match=r"a\.zip: a file; put it into a folder of its own, and pass the folder"):
        _plan(tmp_path / "a.zip")


def test_a_table_in_a_zip_names_its_members(tmp_path: Path):
    table = lines("file_name,label", *(f"pictures/{n}.png,{'ab'[n % 2]}" for n in range(8)))
    tree, plan = _plan(_written(tmp_path, {"set.zip": images("set/pictures/{}.png", 9) | {"set/metadata.csv": table}}))
    assert (tree.kind, tree.unlabelled.count) == ("table set/metadata.csv in set.zip", 1)
    assert [entry.name for entry in plan.classes] == ["a", "b"]
    assert plan.images == 8


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n"])
def test_tables_of_excel_are_read(tmp_path: Path, encoding: str, ends: str):
    write(tmp_path, images("{}.jpg", 4))
    rows = ["path;label", "0.jpg;ä", "1.jpg;ä", '"2.jpg";"o, ""p"""', "2.jpg;o".replace("2", "3")]
    put(tmp_path / "labels.csv", ends.join(rows).replace("3.jpg;o", '3.jpg;"o, ""p"""').encode(encoding))
    _, plan = _plan(tmp_path)
    assert [entry.name for entry in plan.classes] == ['o, "p"', "ä"]
