"""Tables of file names and labels as people's programs write them."""

import json
import shutil
from pathlib import Path

import pytest

from convnext_imagenet.ingest.errors import IngestError
from convnext_imagenet.ingest.source.detect import scan_data
from convnext_imagenet.ingest.source.samples import Sample, SampleTree, natural_order, require_names
from convnext_imagenet.ingest.source.unpack import Unpacker


def scan(root: Path, **options: str) -> SampleTree:
    """Return what is found in a folder of somebody's own images."""
    tree = scan_data(root, Unpacker(root.with_name(".unpacked")), **options)
    assert isinstance(tree, SampleTree)
    return tree


def labels(tree: SampleTree) -> list[tuple[str, str]]:
    """Return path and label of each image."""
    return [(sample.path, sample.label) for sample in tree.samples]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two images, in which only names count here."""
    root = tmp_path / "data"
    (root / "img").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg"):
        (root / "img" / name).write_bytes(b"")
    return root


FOUND = [("img/1.jpg", "x"), ("img/2.jpg", "y")]


def test_a_column_without_a_name_is_that_of_row_numbers_as_pandas_writes_it(folder: Path):
    (folder / "labels.csv").write_text(",path,label\n0,img/1.jpg,x\n1,img/2.jpg,y\n")
    assert labels(scan(folder)) == FOUND


def test_spaces_behind_commas_belong_to_no_value(folder: Path):
    (folder / "labels.csv").write_text('label, path\nx, img/1.jpg\ny, "img/2.jpg"\n')
    assert labels(scan(folder)) == FOUND


def test_a_space_that_a_name_begins_with_stays(folder: Path):
    (folder / "img" / "1.jpg").rename(folder / " 1.jpg")
    (folder / "labels.csv").write_text("label,path\nx, 1.jpg\ny,img/2.jpg\n")
    assert labels(scan(folder)) == [(" 1.jpg", "x"), FOUND[1]]


@pytest.mark.parametrize(
    ("first", "message"),
    [(["x", "y"], "has the columns file_name, none of label.*one value for each image"), ("x", "line 2: no label")],
)
def test_several_labels_of_an_image_are_no_class(folder: Path, first: object, message: str):
    rows = [{"file_name": "img/1.jpg", "label": first}, {"file_name": "img/2.jpg", "label": ["x", "y"]}]
    (folder / "labels.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(IngestError, match=message):
        scan(folder)


def test_class_numbers_as_pandas_writes_them_beside_gaps_are_in_the_order_of_numbers():
    assert natural_order(["10.0", "9.0", "0.0"]) == (["0.0", "9.0", "10.0"], True)
    assert natural_order(["1.5", "10.0"]) == (["1.5", "10.0"], False)


def test_every_image_without_a_row_is_counted_wherever_it_is(folder: Path):
    (folder / "labels.csv").write_text("path,label\nimg/1.jpg,x\nimg/2.jpg,y\n")
    for name in ("img/more/3.jpg", "test/4.jpg", "test/notes.txt", "other/5.txt", ".cache/6.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    tree = scan(folder)
    assert labels(tree) == FOUND
    assert (tree.unlabelled.count, tree.unlabelled.first) == (2, "img/more/3.jpg")
    assert tree.ignored.by_name() == {"other": 1}


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(("file", "row"), [("1.JPG", "1.jpg"), ("e\u0301.jpg", "\xe9.jpg"), ("a b.jpg", "a%20b.jpg")])
def test_a_row_whose_file_has_almost_the_same_name_is_told_so(tmp_path: Path, file: str, row: str, is_packed: bool):
    (tmp_path / "data" / "img").mkdir(parents=True)
    (tmp_path / "data" / "img" / file).write_bytes(b"")
    if is_packed:
        shutil.make_archive(str(tmp_path / "data" / "img"), "zip", tmp_path / "data", "img")
        shutil.rmtree(tmp_path / "data" / "img")
    (tmp_path / "data" / "labels.csv").write_text(f"path,label\nimg/{row},x\n")
    with pytest.raises(IngestError, match="1 of 1 rows name files that are not there") as refused:
        scan(tmp_path / "data")
    assert f"{f'img/{file}'!a} is there: in the table, write names in the same case" in str(refused.value)


@pytest.mark.parametrize("label", ["../x", "/x", "a//b", ".", "x/"])
def test_a_class_whose_name_would_lead_out_of_a_folder_is_refused(label: str):
    require_names([Sample("1.jpg", "T-shirt/top")])
    with pytest.raises(IngestError, match="no name of a class, a part of it is empty"):
        require_names([Sample("1.jpg", label)])


def test_of_a_label_that_cannot_be_printed_the_label_is_shown():
    with pytest.raises(IngestError, match=r"^'dog\\n': not printable UTF-8; rename these files or labels \(1\)"):
        require_names([Sample("1.jpg", "dog\n"), Sample("2.jpg", "dog\n")])
