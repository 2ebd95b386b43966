"""Finished records that were damaged, mixed up or moved: refused with one line before MindSpore opens a file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mindspore.dataset as ds
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import save_weights
from convnext_imagenet.records.cli import main as records_main
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records
from convnext_imagenet.serve.cli import main as serve_main
from convnext_imagenet.train.cli import main as train_main

FIRST = "train/imagenet-train-00000-of-00003.mindrecord"
FEW_ROWS = ("--set", "data.global_batch_size=2")  # what the demo needs to be refused for nothing else
SECOND = "train/imagenet-train-00001-of-00003.mindrecord"


def _flip_bit(root: Path, name: str) -> None:
    data = bytearray((root / name).read_bytes())
    data[len(data) // 2] ^= 4
    (root / name).write_bytes(data)


def _swap(root: Path, one: str, other: str) -> None:
    (root / one).rename(root / "aside")
    (root / other).rename(root / one)
    (root / "aside").rename(root / other)


def _rewrite(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": lambda root: _flip_bit(root, FIRST),
    "flipped bit in an index": lambda root: _flip_bit(root, f"{FIRST}.db"),
    "cut shard": lambda root: os.truncate(root / FIRST, 5000),
    "swapped shards": lambda root: _swap(root, FIRST, SECOND),
    "swapped indexes": lambda root: _swap(root, f"{FIRST}.db", f"{SECOND}.db"),
    "emptied index": lambda root: os.truncate(root / f"{FIRST}.db", 0),
    "missing index": lambda root: (root / f"{FIRST}.db").unlink(),
    "missing shard": lambda root: (root / FIRST).unlink(),
    "renamed shard": lambda root: (root / FIRST).rename(root / "train" / "mine.mindrecord"),
    "missing receipt": lambda root: (root / FIRST).with_suffix(".json").unlink(),
    "emptied receipt": lambda root: os.truncate((root / FIRST).with_suffix(".json"), 0),
    "receipt of another plan": lambda root: _rewrite(
        (root / FIRST).with_suffix(".json"), lambda receipt: receipt.update(plan_id="0" * 64)
    ),
    "receipt of other bytes": lambda root: _rewrite(
        (root / FIRST).with_suffix(".json"), lambda receipt: receipt["files"][0].update(sha256="0" * 64)
    ),
    "missing table": lambda root: (root / FIRST).with_suffix(".parquet").unlink(),
    "edited manifest": lambda root: _rewrite(root / "manifest.json", lambda manifest: manifest.update(seed=5)),
    "missing manifest": lambda root: (root / "manifest.json").unlink(),
    "missing mark": lambda root: (root / "_SUCCESS").unlink(),
    "damaged plan": lambda root: os.truncate(root / "plan.json", 20),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the smallest network, of the tiny tree's two classes."""
    config = ConvNeXtConfig("convnext_test", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=2)
    card = ModelCard(config, (("n00000010", "name 2"), ("n00000020", "name 1")), EvalTransform(size_px=32))
    path = tmp_path_factory.mktemp("weights") / "tiny.weights.safetensors"
    save_weights(path, init_parameters(config, 0), card)
    return path


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore must not open anything."""

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("MindSpore was given the files")

    monkeypatch.setattr(ds, "MindDataset", opened)


def _assert_refused(main, *arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert "Traceback" not in result.output
    return errors[0]


@pytest.mark.usefixtures("sealed")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_records_are_refused_by_all(records: Path, checkpoint: Path, tmp_path: Path, damage):
    damage(records)
    lines = {
        _assert_refused(records_main, "verify", records),
        _assert_refused(train_main, "run", "demo", "--records", records, "--out", tmp_path / "run", *FEW_ROWS),
        _assert_refused(serve_main, "eval", checkpoint, "--records", records),
    }
    assert all(str(records) in line for line in lines)
    assert not (tmp_path / "run").exists()


def test_older_index_is_refused(bench, records: Path, tmp_path: Path, refused):
    """The index of another build of the same rows in another order; its size is the same, its bytes are not."""
    assert bench.run(tmp_path / "other", "--seed", "7")[0] == 0
    shutil.copyfile(tmp_path / "other" / f"{FIRST}.db", records / f"{FIRST}.db")
    assert f"{FIRST}.db" in refused(lambda: Records.open(records))


def _labels(root: Path) -> list[tuple[str, int]]:
    split = Records.open(root).split("val")
    return [(row["key"], row["label"]) for row in split.read(range(split.rows), ["key", "label"])]


@pytest.mark.parametrize("how", ["moved", "linked", "copied"])
def test_moved_linked_or_copied_directory_works(records: Path, tmp_path: Path, how: str):
    expected = _labels(records)
    there = tmp_path / "some where" / "else"
    there.parent.mkdir()
    if how == "moved":
        records.rename(there)
    elif how == "linked":
        there.symlink_to(records)
    else:
        shutil.copytree(records, there, copy_function=shutil.copyfile)
    assert _labels(there) == expected
    assert verify_records(there).problems == ()


def test_unfinished_records_say_how_to_go_on(records: Path):
    (records / "_SUCCESS").unlink()
    with pytest.raises(ArtefactError, match=r"unfinished .*convnext-ingest build"):
        Records.open(records)
