"""A column of a table as inputs, in every form that such tables come in."""

import struct

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from convnext_imagenet.records.image_headers import LARGEST_FILE_BYTES, BadImage
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.inputs import tables
from convnext_imagenet.serve.inputs.storage import local_file

IMAGES = [b"image %d" % number for number in range(10)]
GROUP_ROWS = 3


def open_table(path, column=""):
    return tables.open_table(local_file(path), column)


def _write_arrow(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=GROUP_ROWS)


def _write_stream(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=GROUP_ROWS)


WRITERS = {
    "a.parquet": lambda table, path: pq.write_table(table, path, row_group_size=GROUP_ROWS),
    "b.PARQUET": lambda table, path: pq.write_table(table, path, row_group_size=100),
    "c.arrow": _write_arrow,
    "d.feather": lambda table, path: feather.write_feather(table, path, chunksize=GROUP_ROWS, compression="lz4"),
    "e.feather": lambda table, path: feather.write_feather(table, path, compression="uncompressed"),
    "f.arrow": _write_stream,
}


def _table(tmp_path, name="a.parquet", **columns):
    WRITERS[name](pa.table(columns), tmp_path / name)
    return tmp_path / name


def _all(inputs):
    return list(inputs.items(range(inputs.count)))


@pytest.mark.parametrize("name", WRITERS)
def test_every_range_of_rows_is_read_whatever_the_groups(tmp_path, name):
    inputs = open_table(_table(tmp_path, name, image=IMAGES, label=list(range(10))))
    assert inputs.count == 10
    for start in range(11):
        for stop in range(start, 11):
            found = [(item.source, item.load()) for item in inputs.items(range(start, stop))]
            assert found == [(f"{name}#{number}", IMAGES[number]) for number in range(start, stop)]
    assert not inputs.is_inside(tmp_path / "out")


def test_a_range_inside_a_group_of_many_batches(tmp_path):
    images = [b"%d" % number for number in range(1000)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    inputs = open_table(tmp_path / "a.parquet")
    assert inputs.group_rows == (1000,)
    for start, stop in ((0, 1), (255, 257), (256, 512), (300, 301), (999, 1000), (0, 1000)):
        assert [item.load() for item in inputs.items(range(start, stop))] == images[start:stop]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_nulls_and_values_that_are_too_large_are_errors_of_their_rows(tmp_path, kind):
    column = pa.array([b"a", None, bytes(LARGEST_FILE_BYTES + 1), b""], kind)
    first, null, large, empty = _all(open_table(_table(tmp_path, image=column)))
    assert (first.load(), empty.load()) == (b"a", b"")
    with pytest.raises(BadImage, match="empty: the table holds no value here"):
        null.load()
    with pytest.raises(BadImage, match="too_large"):
        large.load()


@pytest.mark.parametrize("name", WRITERS)
def test_images_as_hugging_face_stores_them(tmp_path, name):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [{"bytes": b"a", "path": "x/a.png"}, {"bytes": b"b", "path": None}, {"bytes": None, "path": "c"}, None]
    items = _all(open_table(_table(tmp_path, name, image=pa.array(values, kind))))
    assert [item.source for item in items] == ["x/a.png", f"{name}#1", "c", f"{name}#3"]
    assert [item.load() for item in items[:2]] == [b"a", b"b"]
    with pytest.raises(FileNotFoundError, match="c'"):
        items[2].load()
    with pytest.raises(BadImage, match="empty"):
        items[3].load()


def test_images_as_polars_writes_them_to_arrow(tmp_path):
    kind = pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])
    image = pa.array([{"bytes": b"a", "path": "x/a.png"}, {"bytes": None, "path": None}], kind)
    first, second = _all(open_table(_table(tmp_path, "c.arrow", image=image)))
    assert (first.source, first.load(), second.source) == ("x/a.png", b"a", "c.arrow#1")


def test_an_image_of_hugging_face_without_bytes_is_the_file_at_its_path(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"from the file")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        {"bytes": None, "path": "sub/a.jpg"},
        {"bytes": b"stored", "path": "sub/a.jpg"},
        {"bytes": None, "path": None},
    ]
    first, second, third = _all(open_table(_table(tmp_path, image=pa.array(rows, kind))))
    assert (first.source, first.load()) == ("sub/a.jpg", b"from the file")
    assert (second.source, second.load()) == ("sub/a.jpg", b"stored")
    with pytest.raises(BadImage, match="no value here"):
        third.load()


def test_an_empty_path_is_an_error_of_its_row(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    empty, good = _all(open_table(_table(tmp_path, file=["", "a.jpg"])))
    with pytest.raises((OSError, BadImage)):
        empty.load()
    assert good.load() == b"a"


@pytest.mark.parametrize("path_kind", [pa.string(), pa.int64()])
def test_only_text_names_an_image(tmp_path, path_kind):
    kind = pa.struct([("path", path_kind), ("bytes", pa.binary())])
    (item,) = _all(open_table(_table(tmp_path, image=pa.array([{"bytes": b"a", "path": None}], kind))))
    assert (item.source, item.load()) == ("a.parquet#0", b"a")
    alone = pa.array([{"bytes": b"b"}], pa.struct([("bytes", pa.binary())]))
    (item,) = _all(open_table(_table(tmp_path, image=alone)))
    assert (item.source, item.load()) == ("a.parquet#0", b"b")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_is_a_path_that_begins_at_the_folder_of_the_table(tmp_path, kind):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jpg").write_bytes(b"a")
    paths = pa.array(["deep/a.jpg", str(tmp_path / "deep" / "a.jpg"), "missing", None, "a\0b"], kind)
    items = _all(open_table(_table(tmp_path, file=paths)))
    assert [item.source for item in items[:4]] == ["deep/a.jpg", str(tmp_path / "deep/a.jpg"), "missing", "a.parquet#3"]
    assert [item.load() for item in items[:2]] == [b"a", b"a"]
    for place in (2, 4):
        with pytest.raises(OSError, match=r"No such file|zero byte"):
            items[place].load()
    with pytest.raises(BadImage, match="empty"):
        items[3].load()


def test_text_that_is_no_utf8_is_a_path_all_the_same(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xffx")])
    (tmp_path / "\udcffx").write_bytes(b"found")
    (item,) = _all(open_table(_table(tmp_path, file=text)))
    assert (item.source, item.load()) == (r"\xffx", b"found")


STRUCT_OF_TEXT = pa.array([{"bytes": "text"}], pa.struct([("bytes", pa.string())]))


@pytest.mark.parametrize(
    ("columns", "asked", "chosen"),
    [
        ({"image": [b"a"], "label": [1]}, "", "image"),
        ({"file": ["a"], "label": [1]}, "", "file"),
        ({"image": [b"a"], "file": ["a"], "wnid": ["n0"]}, "", "image"),
        ({"image": [b"a"], "file": ["a"]}, "file", "file"),
        ({"image": [b"a"], "mask": [b"a"]}, "mask", "mask"),
        ({"a.b": [b"a"], "label": [1]}, "", "a.b"),
    ],
)
def test_which_column_is_meant(tmp_path, columns, asked, chosen):
    inputs = open_table(_table(tmp_path, **columns), asked)
    assert inputs.column == chosen
    assert inputs.count == len(_all(inputs)) == 1


@pytest.mark.parametrize(
    ("columns", "asked", "says"),
    [
        ({"image": [b"a"], "mask": [b"a"]}, "", "not clear which .* --column with one of: image, mask$"),
        ({"file": ["a"], "wnid": ["n0"]}, "", "not clear which .* --column with one of: file, wnid$"),
        ({"image": [b"a"], "n": [1]}, "picture", "no column 'picture' .* --column with one of: image$"),
        ({"image": [b"a"], "n": [1]}, "n", "no column 'n' of image bytes or paths"),
        ({"n": [1], "x": [0.5]}, "", r"it has n: int64, x: double, and neither bytes, \{bytes, path\} nor text; give"),
        ({"image": STRUCT_OF_TEXT}, "", "it has image: struct, and neither"),
        ({"image": pa.array([], pa.binary())}, "", "holds no rows"),
    ],
)
def test_a_table_without_a_clear_column_or_rows_names_the_way_out(tmp_path, columns, asked, says):
    with pytest.raises(ServeError, match=says):
        open_table(_table(tmp_path, **columns), asked)


@pytest.mark.parametrize("columns", [tables.Columns(), tables.Columns("image"), tables.Columns("image", keep=("n",))])
def test_two_columns_of_one_name_are_refused(tmp_path, columns):
    twice = "n" if columns.keep else "image"
    data = {"image": pa.array([b"a"]), "n": pa.array(["x"])}
    pq.write_table(pa.table([*data.values(), data[twice]], names=[*data, twice]), tmp_path / "a.parquet")
    with pytest.raises(ServeError, match=rf"a\.parquet: 2 columns are named '{twice}'; rename or drop all but one"):
        tables.open_tables([local_file(tmp_path / "a.parquet")], columns)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kept", [0, 7, 100, -3])
def test_what_is_no_whole_table_is_refused(tmp_path, name, kept):
    path = _table(tmp_path, name, image=IMAGES)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ServeError, match=rf"{name}: cannot be read as a table"):
        open_table(path)
    path.write_bytes(b"no table" * 50)
    with pytest.raises(ServeError, match=rf"{name}: cannot be read as a table"):
        open_table(path)


@pytest.mark.parametrize("cut", [8, -1])
def test_a_stream_that_ends_between_two_batches_is_refused(tmp_path, cut):
    """Such a stream reads well: only its end mark tells that rows are missing."""
    path = _table(tmp_path, "f.arrow", image=IMAGES)
    data, last = path.read_bytes(), open_table(path).stream_offsets[-1]
    path.write_bytes(data[:-cut] if cut > 0 else data[:last])
    with pytest.raises(ServeError, match=r"f\.arrow: cannot be read as a table \(the stream has no end mark"):
        open_table(path)


@pytest.mark.parametrize("name", ["a.parquet", "d.feather"])
def test_damage_inside_a_table_ends_with_its_name(tmp_path, name):
    table = pa.table({"image": [b"same" * 1000] * 50})
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name, compression="zstd")
    else:
        feather.write_feather(table, tmp_path / name, compression="zstd")
    data = bytearray((tmp_path / name).read_bytes())
    start = data.index(b"\x28\xb5\x2f\xfd")  # the first zstd frame
    data[start + 4 : start + 12] = b"\xff" * 8
    inputs = open_table(tmp_path / name)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ServeError, match=rf"{name}: cannot be read as a table"):
        _all(inputs)


def test_the_fingerprint_follows_content_and_column(tmp_path):
    prints = set()
    for columns, asked in (
        ({"image": IMAGES, "mask": IMAGES}, "image"),
        ({"image": IMAGES, "mask": IMAGES}, "mask"),
        ({"image": [*IMAGES[:-1], b"other 9"], "mask": IMAGES}, "image"),
        ({"image": IMAGES[:-1], "mask": IMAGES[:-1]}, "image"),
    ):
        prints.add(open_table(_table(tmp_path, **columns), asked).sha256)
    assert len(prints) == 4
    again = open_table(_table(tmp_path, image=IMAGES, mask=IMAGES), "image")
    assert again.sha256 in prints


def test_a_group_larger_than_memory_should_be_is_read_in_pieces(tmp_path):
    """100 MB in one row group, of which a few pages at a time are held."""
    table = pa.table({"image": [bytes([number % 251]) * 10_000 for number in range(10_000)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False, data_page_size=1 << 18)
    del table
    inputs, before = open_table(tmp_path / "a.parquet"), pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in inputs.items(range(inputs.count)))
    assert most < 60_000_000
