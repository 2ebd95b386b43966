"""`open_records`: the rows that MindSpore reads, in any thread and process, and no damaged byte."""

import multiprocessing
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.records import open_records
from convnext_imagenet.records.epoch_order import epoch_order
from convnext_imagenet.records.reader import Records

from .conftest import build_records, make_rows

ROWS = [*make_rows(7)[0::2], *make_rows(7)[1::2]]  # as two shards hold them


@pytest.mark.parametrize("check", ["rows", "shards"])
@pytest.mark.parametrize("as_uri", [False, True])
def test_rows_are_those_of_mindspore(records_root, check, as_uri):
    if as_uri and check == "shards":
        with pytest.raises(ArtefactError, match="check='shards' needs a folder on this machine"):
            open_records(f"file://{records_root}", check=check)
        return
    source = open_records(f"file://{records_root}" if as_uri else records_root, check=check)
    expected = [(row["image"], row["label"]) for row in Records.open(records_root).split("train").read(range(7))]
    assert len(source) == 7
    assert list(source) == expected == [(row.image, row.label) for row in ROWS]
    assert source.keys == [row.key for row in ROWS]
    assert source.labels.tolist() == [row.label for row in ROWS]
    assert [source.fields(row) for row in range(7)] == ROWS
    assert source.classes[1].wnid == "n00000002"


def test_positions_slices_and_batches(records_root):
    source = open_records(str(records_root))
    images = [row.image for row in ROWS]
    assert source[-1].image == images[-1] == source[np.int64(6)].image
    assert [sample.image for sample in source[5:1:-2]] == images[5:1:-2]
    assert [len(batch) for batch in source.batches(range(7), 3)] == [3, 3, 1]
    assert [sample.image for sample in source.__getitems__([6, 0, 6])] == [images[6], images[0], images[6]]
    for outside in (7, -8):
        with pytest.raises(IndexError, match="outside of the 7 rows of train"):
            source[outside]
    with pytest.raises(TypeError):
        source[1.5]


def test_threads_forks_and_other_processes_read_the_same(records_root):
    source = open_records(records_root)
    first = [sample.image for sample in source[:3]]  # shards are open when the process forks
    expected = [row.image for row in ROWS]
    assert first == expected[:3]
    found: list[list[bytes]] = [[] for _ in range(8)]
    forked = threading.Event()

    def read(out: list[bytes]) -> None:
        while not forked.is_set():  # Python itself may hang in a fork while a thread ends
            out[:] = [sample.image for sample in open_records(records_root)]  # shards are opened during the fork, too

    threads = [threading.Thread(target=read, args=(out,)) for out in found]
    for thread in threads:
        thread.start()
    for _ in range(5):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            read_by_forks = pool.map_async(source.__getitem__, range(7)).get(timeout=60)
        assert [sample.image for sample in read_by_forks] == expected
    forked.set()
    for thread in threads:
        thread.join()
    assert all(out == expected for out in found)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert [sample.image for sample in pool.map(source.__getitem__, range(7))] == expected
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


@pytest.mark.parametrize("check", ["rows", "shards"])
def test_a_flipped_bit_of_an_image_is_never_returned(records_root, check):
    shard = min((records_root / "train").glob("*.mindrecord"))
    data = bytearray(shard.read_bytes())
    data[data.index(ROWS[2].image) + 50] ^= 4
    shard.write_bytes(data)
    source = open_records(records_root, check=check)  # nothing is read yet
    assert source[5].image == ROWS[5].image  # of the other shard
    if check == "rows":
        assert source[1].image == ROWS[1].image
    with pytest.raises(ArtefactError, match=r"the image of row 2 is damaged|its SHA-256 is not the recorded one"):
        source[2]


def test_what_changes_while_it_is_open_is_noticed(records_root):
    source = open_records(records_root)
    shard = min((records_root / "train").glob("*.mindrecord"))
    assert source[0].image == ROWS[0].image
    with shard.open("r+b") as file:
        file.truncate(16_500)
    with pytest.raises(ArtefactError, match="ends before byte"):
        source[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("index.parquet", r"index\.parquet: missing or changed"),
        ("train/*.db", r"\.db: not the file that the manifest names"),
        ("train/*.mindrecord", "bytes, expected"),
        ("manifest.json", "changed since the directory was finished"),
    ],
)
def test_other_damage_is_refused(records_root, name, message):
    path = min(records_root.glob(name))
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ArtefactError, match=message):
        open_records(records_root)[0]


def test_what_is_no_records_is_refused(records_root, tmp_path):
    with pytest.raises(ArtefactError, match="no rows in split 'val'; splits with rows: train"):
        open_records(records_root, "val")
    with pytest.raises(ArtefactError, match="no such directory"):
        open_records(tmp_path / "absent")
    with pytest.raises(ArtefactError, match="half of them"):
        open_records(f"file://{tmp_path}/absent")
    (records_root / "_SUCCESS").unlink()
    for place in (records_root, f"file://{records_root}"):
        with pytest.raises(ArtefactError, match=r"unfinished|half of them"):
            open_records(place)


def test_whole_shards_are_hashed_once_for_all_programs(records_root, monkeypatch):
    assert len(list(open_records(records_root, check="shards"))) == 7
    monkeypatch.setattr("convnext_imagenet.records.row_source.sha256_file", lambda path: pytest.fail(f"hashed {path}"))
    assert len(list(open_records(records_root, check="shards"))) == 7


def test_mindspore_is_not_loaded(tmp_path):
    root = build_records(tmp_path / "records", make_rows(3), shards=1)
    program = (
        "import sys; from convnext_imagenet.records import open_records; "
        f"print(len(open_records({str(root)!r})[0].image), {{'mindspore', 'cv2', 'PIL'}} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"{len(make_rows(1)[0].image)} set()\n"


def test_pytorch_loads_it_in_our_order(records_root):
    data = pytest.importorskip("torch.utils.data")
    rows, order = open_records(records_root), epoch_order(7, seed=0, epoch=1).tolist()
    loader = data.DataLoader(rows, sampler=order, batch_size=None, num_workers=1)
    assert [sample.image for sample in loader] == [ROWS[row].image for row in order]
    batches = data.DataLoader(rows, sampler=order, batch_size=3, collate_fn=list, num_workers=2)
    assert [sample.image for batch in batches for sample in batch] == [ROWS[row].image for row in order]


def test_grain_and_datasets_load_it(records_root):
    grain = pytest.importorskip("grain.python")
    datasets = pytest.importorskip("datasets")
    rows = open_records(records_root)
    assert isinstance(rows, grain.RandomAccessDataSource)
    loader = grain.DataLoader(data_source=rows, sampler=grain.SequentialSampler(7, grain.NoSharding()), worker_count=0)
    assert [sample.image for sample in loader] == [row.image for row in ROWS]
    table = datasets.Dataset.from_generator(lambda: ({"image": row.image, "label": row.label} for row in rows))
    assert table["label"] == [row.label for row in ROWS]
