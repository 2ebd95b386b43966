"""Training from records that grew and from records in a store: the rows, order, pixels and weights that are stated."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.ingest.cli import main as ingest
from convnext_imagenet.records import open_records
from convnext_imagenet.records.epoch_order import epoch_order
from convnext_imagenet.records.push import push
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.schema import Row
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import plan_steps
from convnext_imagenet.train.data.order import training_order
from convnext_imagenet.train.data.pipeline import batches
from convnext_imagenet.train.run.run import RunRequest, train

from ..object_store import Store, running_store
from ..records_of import finished_records
from .conftest import make_rows
from .rank_jobs import Job, assert_same_bits, needs_two_cores, train_command

OLD_ROWS, NEW_ROWS, VAL_ROWS = 24, 10, 6
EPOCHS = (0, 3)
OF_A_SAMPLE = ("pixels", "labels", "erase_boxes")  # the other draws belong to a step


def _place(root: Path, split: str, rows: list[Row]) -> None:
    for row in rows:
        path = root / split / row.key.partition("_")[0] / f"{row.key}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.image)


def _build(data: Path, out: Path, *options: str) -> Path:
    words = ["build", str(data), "--out", str(out), "--workers", "1", "--unverified", *options]
    done = CliRunner().invoke(ingest, words)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parent")
    _place(root / "raw", "train", make_rows(OLD_ROWS))
    _place(root / "raw", "val", make_rows(OLD_ROWS + VAL_ROWS)[OLD_ROWS:])
    return _build(root / "raw", root / "records", "--classes", "found")


@pytest.fixture(scope="module")
def grown(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of `parent` with ten train images and one val image more."""
    root = tmp_path_factory.mktemp("grown")
    rows = make_rows(100)
    _place(root / "raw", "train", rows[50 : 50 + NEW_ROWS])
    _place(root / "raw", "val", rows[90:91])
    return _build(root / "raw", root / "records", "--onto", str(parent))


@pytest.fixture(scope="module")
def same(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of the grown records in one shard of each split, as if they had been written at once."""
    splits = {}
    for name in ("train", "val"):
        source = open_records(grown, name)
        splits[name] = [source.fields(row) for row in range(len(source))]
    root = tmp_path_factory.mktemp("same") / "records"
    return finished_records(root, splits, Records.open(grown).classes, {}, is_verified=False)


def _rows_of(root: Path, config: Config, epoch: int) -> list[dict[str, np.ndarray]]:
    """What reaches the steps of an epoch, batch by batch."""
    split = Records.open(root).split("train")
    made = batches(split, config, plan_steps(config, split.rows), epoch, 1, 0, (0.0, 0.2))
    return [
        {"pixels": batch.pixels, "labels": batch.labels, "sample_ids": batch.sample_ids}
        | {name: value for name, value in batch.draws._asdict().items() if value is not None}
        for batch in made
    ]


def _by_sample(made: list[dict[str, np.ndarray]]) -> dict[int, dict[str, np.ndarray]]:
    return {
        int(number): {name: batch[name][at] for name in OF_A_SAMPLE if name in batch}
        for batch in made
        for at, number in enumerate(batch["sample_ids"])
    }


@pytest.mark.parametrize("epoch", EPOCHS)
def test_the_steps_of_grown_records_get_what_the_same_rows_written_at_once_give(grown, same, config, epoch):
    found, expected = (_rows_of(root, config, epoch) for root in (grown, same))
    assert len(found) == len(expected) == (OLD_ROWS + NEW_ROWS) // 8 * 2
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.parametrize("epoch", EPOCHS)
def test_an_old_image_keeps_its_row_its_id_and_its_augmentation(parent, grown, config, epoch):
    old, new = (Records.open(root).split("train") for root in (parent, grown))
    columns = ("key", "sample_id", "label", "image")
    assert list(new.read(range(OLD_ROWS), columns)) == list(old.read(range(OLD_ROWS), columns))
    before, after = (_by_sample(_rows_of(root, config, epoch)) for root in (parent, grown))
    shared = before.keys() & after.keys()
    assert len(shared) > OLD_ROWS / 2  # an epoch drops the rest of the last batch
    for number in shared:
        assert before[number].keys() == set(OF_A_SAMPLE)
        for name, value in before[number].items():
            np.testing.assert_array_equal(after[number][name], value, err_msg=f"{number} {name}")


def test_an_epoch_visits_old_and_new_rows_in_one_permutation(grown, config):
    split = Records.open(grown).split("train")
    for epoch in EPOCHS:
        order = training_order(split, config, epoch).rows
        assert order.tolist() == epoch_order(OLD_ROWS + NEW_ROWS, config.train.seed, epoch).tolist()
        assert sorted(order) == list(range(OLD_ROWS + NEW_ROWS))
        half = set(order[: len(order) // 2].tolist())
        assert half & set(range(OLD_ROWS))
        assert half & set(range(OLD_ROWS, OLD_ROWS + NEW_ROWS))


def test_a_run_that_began_before_its_records_grew_is_refused_with_the_ways_out(
    finished_run: Path, grown: Path, config: Config, tmp_path: Path, recorder: Any
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    (run / "_SUCCESS").unlink()
    with pytest.raises(ArtefactError) as refused:
        train(config, RunRequest(grown, run, 1), recorder)
    words = str(refused.value)
    assert "belongs to another run (differs in: records (SHA-256 " in words
    assert f"pass the records that it began on, or another --out, with --init-from {run} to start from" in words


def _train(records: Path | str, run: Path, tiny: tuple[str, ...], *options: str) -> Result:
    overrides = [word for override in (*tiny, *options) for word in ("--set", override)]
    words = ["run", "paper-tiny", "--records", str(records), "--out", str(run), "--workers", "1", *overrides]
    return CliRunner().invoke(main, words)


@pytest.mark.slow
def test_grown_records_train_to_the_weights_of_the_same_rows_written_at_once(grown, same, tiny, tmp_path):
    for root in (grown, same):
        done = _train(root, tmp_path / root.parent.name, tiny)
        assert done.exit_code == 0, done.output
    assert_same_bits(tmp_path / grown.parent.name, tmp_path / same.parent.name)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONVNEXT_RECORDS_CACHE", str(tmp_path / "copies"))
    with running_store() as found:
        yield found


@pytest.mark.slow
def test_a_run_on_records_in_a_store_is_the_run_on_the_directory(
    records_root: Path, grown: Path, finished_run: Path, tiny: tuple[str, ...], tmp_path: Path, store: Store
) -> None:
    """And it is refused when the records there are others by the time it resumes."""
    push(records_root, store.uri("set"))
    run = tmp_path / "run"
    done = _train(store.uri("set"), run, tiny)
    assert done.exit_code == 0, done.output
    assert "GiB (train, val) into" in done.stderr
    assert "hunter2" not in done.output
    assert_same_bits(run, finished_run)
    assert (run / "plan.json").read_bytes() == (finished_run / "plan.json").read_bytes()
    for key in [key for key in store.objects if key.startswith("set/")]:
        del store.objects[key]
    push(grown, store.uri("set"))
    (run / "_SUCCESS").unlink()
    done = _train(store.uri("set"), run, tiny)
    assert (done.exit_code, "pass the records that it began on" in done.stderr) == (1, True), done.output


@pytest.mark.slow
@needs_two_cores
def test_two_ranks_share_one_fetch_and_end_with_the_bits_of_two_on_the_directory(
    records_root: Path, finished_by_two: Path, tiny: tuple[str, ...], tmp_path: Path, store: Store
) -> None:
    push(records_root, store.uri("set"))
    store.requests.clear()
    run = tmp_path / "run"
    command = train_command(Path("RECORDS"), run, tiny, devices=2)  # a Path would lose a slash of the URI
    code, said, _ = Job([store.uri("set") if word == "RECORDS" else word for word in command], {}).wait()
    assert code == 0, said
    shards = {key: count for (method, key), count in store.requests.items() if method == "GET" and "mindrecord" in key}
    assert len(shards) == 4
    assert set(shards.values()) == {1}
    assert_same_bits(run, finished_by_two)
