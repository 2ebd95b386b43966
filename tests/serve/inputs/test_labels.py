"""Labels and columns that inputs bring along stand in the rows of their own images."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.kinds import open_inputs
from convnext_imagenet.serve.inputs.labels import class_lookup
from convnext_imagenet.serve.predict.job import open_job
from convnext_imagenet.serve.settings import PredictOptions

from ..conftest import class_table, picture

WNIDS, NAMES = zip(*class_table(7), strict=True)
OPTIONS = PredictOptions(topk=2, part_rows=4, batch_size=2)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("n02012849", 0),
        ("crane bird", 0),
        ("Grus_grus", 0),
        ("crane", None),
        ("CRANE MACHINE", 1),
        ("tench", None),
        ("", None),
    ],
)
def test_a_class_is_found_by_wnid_and_by_any_name_that_only_it_has(text, index):
    lookup = class_lookup(["n02012849", "n03126707", ""], ["crane bird, crane, Grus grus", "crane machine, crane", ""])
    assert lookup.index_of(text) == index


def _open(path, **options):
    inputs = open_inputs(str(path), WNIDS, names=NAMES, **options)
    return inputs, list(inputs.items(range(inputs.count)))


def test_folders_that_are_named_after_classes_are_labels(tmp_path):
    expected = {"name 3/a.jpg": 3, "n00000001/b.jpg": 1, "train/n00000006/c.jpg": 6, "other/d.jpg": None, "e.jpg": None}
    for name in expected:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in expected:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "list.txt").write_text("".join(f"images/{name}\n" for name in expected))
    for images in ("images", "a.tar", "list.txt"):
        _, items = _open(tmp_path / images)
        labels = {item.source.removeprefix("a.tar/").removeprefix("images/"): item.label for item in items}
        assert labels == (expected if images != "list.txt" else {**expected, "e.jpg": None})


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        (["n00000002", "Name 5", "synonym 6", "what", None], None, [2, 5, 6, None, None]),
        ([0, 6, 7, -1, None], None, [0, 6, None, None, None]),
        ([0, 1, 2, 3, None], ["name 4", "n00000000", "cat"], [4, 0, None, None, None]),
    ],
)
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_column_of_labels(tmp_path, values, names, labels, ending):
    table = pa.table({"image": [b"a"] * 5, "y": values})
    if names:
        features = {"info": {"features": {"y": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table, 2)
    _, items = _open(path, label_column="y")
    assert [item.label for item in items] == labels


def test_kept_columns_stand_beside_their_own_predictions(fake, tmp_path):
    """Rows, row groups and tables cross the borders of parts; a name that we use gets a prefix."""
    (tmp_path / "t").mkdir()
    for name, first in (("a", 0), ("b", 7)):
        rows = range(first, first + 7)
        columns = {"image": [picture(row) for row in rows], "id": [f"id-{row}" for row in rows]}
        columns |= {"label": [row % 7 for row in rows], "when": pa.array(list(rows), pa.timestamp("s"))}
        pq.write_table(pa.table(columns), tmp_path / "t" / f"{name}.parquet", row_group_size=3)
    inputs, items = _open(tmp_path / "t", keep=["label", "id", "when"], label_column="label")
    assert inputs.sha256 not in {_open(tmp_path / "t")[0].sha256, _open(tmp_path / "t", keep=["id"])[0].sha256}
    assert [item.kept["id"] for item in items] == [f"id-{row}" for row in range(14)]
    with open_job(fake, inputs, tmp_path / "out", OPTIONS) as job:
        job.run(lambda count: None)
    table = pq.read_table(tmp_path / "out")
    for number, row in enumerate(table.to_pylist()):
        assert row["table_row"] == f"{'ab'[number // 7]}.parquet#{number % 7}"
        assert (row["id"], row["input_label"], row["label"]) == (f"id-{number}", number % 7, number % 7)
        assert row["correct"] == (row["top1_index"] == number % 7)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep": ["nope"]}, "no column 'nope'; it has: image, y, f"),
        ({"label_column": "nope"}, "no column 'nope'"),
        ({"label_column": "f"}, "'f' holds double; it must hold whole numbers or text"),
        ({"keep": ["image"], "column": "image"}, "--keep 'image' holds bytes"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(tmp_path, options, says):
    pq.write_table(pa.table({"image": [b"a"], "y": [1], "f": [0.5]}), tmp_path / "t.parquet")
    with pytest.raises(ServeError, match=says):
        _open(tmp_path / "t.parquet", **options)


def test_columns_of_what_is_no_table_are_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    for options in ({"keep": ["id"]}, {"label_column": "y"}):
        with pytest.raises(ServeError, match="not a table, so --"):
            _open(tmp_path, **options)
