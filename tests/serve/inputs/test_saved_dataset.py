"""Folders as Hugging Face's `save_to_disk` leaves them: streams of Arrow beside a state.json."""

import json

import pyarrow as pa
import pyarrow.fs as pa_fs
import pytest

from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs.kinds import open_inputs
from convnext_imagenet.serve.inputs.saved_dataset import open_saved_dataset
from convnext_imagenet.serve.inputs.storage import StoredFile

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FILES = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]


def _save(root, **state):
    """Two files of 5 and 3 images, in batches of 2."""
    root.mkdir(parents=True)
    for name, first, last in zip(FILES, (0, 5), (5, 8), strict=True):
        images = [{"bytes": b"image %d" % number, "path": f"{number}.jpg"} for number in range(first, last)]
        table = pa.table({"image": pa.array(images, IMAGE), "label": list(range(first, last))})
        with pa.OSFile(str(root / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    content = {"_data_files": [{"filename": name} for name in FILES], "_fingerprint": "3c", "_split": "train"}
    (root / "state.json").write_text(json.dumps(content | state))
    (root / "dataset_info.json").write_text("{}")
    return root


def _loaded(inputs):
    return [(item.source, item.load()) for item in inputs.items(range(inputs.count))]


EXPECTED = [(f"{number}.jpg", b"image %d" % number) for number in range(8)]


def test_a_saved_data_set_means_its_rows(tmp_path):
    root = _save(tmp_path / "saved")
    inputs = open_inputs(str(root), [])
    assert _loaded(inputs) == EXPECTED
    assert inputs.is_inside(root / "out")
    assert not inputs.is_inside(tmp_path / "out")
    assert open_inputs(str(root), [], column="image").sha256 == inputs.sha256


def test_files_come_in_the_order_of_the_state(tmp_path):
    root = _save(tmp_path / "saved", _data_files=[{"filename": name} for name in reversed(FILES)])
    assert _loaded(open_inputs(str(root), [])) == EXPECTED[5:] + EXPECTED[:5]


def test_a_saved_data_set_in_a_store(tmp_path):
    _save(tmp_path / "saved")
    store = pa_fs.SubTreeFileSystem(str(tmp_path), pa_fs.LocalFileSystem())
    inputs = open_saved_dataset(StoredFile("saved", store, "s3://bucket/saved"))
    assert _loaded(inputs) == EXPECTED


def test_one_of_several_splits_must_be_named(tmp_path):
    for split in ("train", "test"):
        _save(tmp_path / "saved" / split)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ServeError, match=r"splits train, test; give the folder of one, such as .*saved/train$"):
        open_inputs(str(tmp_path / "saved"), [])
    assert open_inputs(str(tmp_path / "saved" / "test"), []).count == 8


def test_rows_that_an_index_chooses_are_refused_rather_than_replaced_by_all(tmp_path):
    root = _save(tmp_path / "saved", _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(ServeError, match="flatten_indices"):
        open_inputs(str(root), [])


def test_a_file_that_the_state_names_and_is_not_there_is_named(tmp_path):
    root = _save(tmp_path / "saved")
    (root / FILES[1]).unlink()
    with pytest.raises(ServeError, match=rf"{FILES[1]}: cannot be read as a table"):
        open_inputs(str(root), [])


@pytest.mark.parametrize(
    "state",
    [
        "",
        "[]",
        "not json",
        "{}",
        '{"_data_files": []}',
        '{"_data_files": [3]}',
        '{"_data_files": [{"filename": "../x"}]}',
    ],
)
def test_a_state_of_something_else_is_a_file_like_any_other(tmp_path, state):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "state.json").write_text(state)
    (tmp_path / "images" / "a.jpg").write_bytes(b"x")
    assert open_inputs(str(tmp_path / "images"), []).count == 2
