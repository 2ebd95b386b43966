"""Damage of finished records: the advice of the message is followed, and leads out; the result has the same bytes."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.ingest.cli import main as ingest
from convnext_imagenet.records.cli import main as records

pytestmark = pytest.mark.usefixtures("write_here")
SHARD = "train/imagenet-train-00000-of-00001.mindrecord"
VAL_SHARD = "val/imagenet-val-00000-of-00001.mindrecord"


def _build(data: Path, out: Path, *options: str) -> Result:
    arguments = ["build", str(data), "--out", str(out), "--classes", "found", "--workers", "1", *options]
    return CliRunner().invoke(ingest, arguments)


def _records(command: str, out: Path) -> Result:
    return CliRunner().invoke(records, [command, str(out)])


def _digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def source(_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw tree; a test that changes it takes a copy."""
    return Path(shutil.copytree(_template, tmp_path_factory.mktemp("source") / "raw"))


@pytest.fixture(scope="module")
def finished(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "records"
    done = _build(source, out)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "records"))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _edit(path: Path, key: str, value: object) -> None:
    content = json.loads(path.read_text())
    content[key] = value
    path.write_text(json.dumps(content))


SHARD_DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped byte": lambda root: _flip(root / SHARD),
    "flipped byte in val": lambda root: _flip(root / VAL_SHARD),
    "no .db": lambda root: (root / f"{SHARD}.db").unlink(),
    "flipped table": lambda root: _flip((root / SHARD).with_suffix(".parquet")),
    "cut receipt": lambda root: os.truncate((root / SHARD).with_suffix(".json"), 9),
    "no train": lambda root: shutil.rmtree(root / "train"),
}
SUMMARY_DAMAGES: dict[str, Callable[[Path], object]] = {
    "no report": lambda root: (root / "report.html").unlink(),
    "changed index": lambda root: _flip(root / "index.parquet"),
    "no mark": lambda root: (root / "_SUCCESS").unlink(),
    "no mark and no quarantine": lambda root: [(root / name).unlink() for name in ("_SUCCESS", "quarantine.parquet")],
}
MANIFEST_DAMAGES: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda root: (root / "manifest.json").unlink(),
    "edited manifest": lambda root: _edit(root / "manifest.json", "seed", 5),
    "edited manifest, no mark": lambda root: (
        _edit(root / "manifest.json", "seed", 5),
        (root / "_SUCCESS").unlink(),
    ),
}
DAMAGES = SHARD_DAMAGES | SUMMARY_DAMAGES | MANIFEST_DAMAGES


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_advice_leads_out_to_the_same_bytes(source, finished, copied, damage, request):
    damage(copied)
    refused = _records("verify", copied)
    assert refused.exit_code == 1
    assert ("--repair" in refused.output) is ("no mark" not in request.node.name)
    done = _build(source, copied, "--repair")
    assert done.exit_code == 0, done.output
    assert "others than before" not in done.output
    assert _digests(copied) == _digests(finished)
    assert _records("verify", copied).exit_code == 0


@pytest.mark.parametrize("damage", SUMMARY_DAMAGES.values(), ids=SUMMARY_DAMAGES)
def test_what_needs_no_source_is_repaired_without_it(finished, copied, damage):
    damage(copied)
    done = _records("repair", copied)
    assert (done.exit_code, "25 rows read and verified" in done.output) == (0, True), done.output
    assert _digests(copied) == _digests(finished)


@pytest.mark.parametrize("damage", (SHARD_DAMAGES | MANIFEST_DAMAGES).values(), ids=SHARD_DAMAGES | MANIFEST_DAMAGES)
def test_what_needs_the_source_is_named_and_left_alone(copied, tmp_path, damage):
    damage(copied)
    before = _digests(copied)
    refused = _records("repair", copied)
    assert refused.exit_code == 1
    assert "with --repair" in refused.output
    assert _digests(copied) == before


def test_without_the_source_a_build_says_what_is_lost(copied, tmp_path):
    assert "every shard is whole; run `convnext-records repair" in _build(tmp_path / "gone", copied, "--repair").output
    _flip(copied / SHARD)
    lost = _build(tmp_path / "gone", copied, "--repair")
    assert lost.exit_code == 1
    assert f"lost without the source: 1 of 2 shards, 18 images ({SHARD})" in lost.output


def test_whole_records_are_left_alone(source, finished):
    before = _digests(finished)
    times = {
        path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name not in (".lock", ".stamps.json")
    }
    for done in (_build(source, finished, "--repair"), _build(source, finished), _records("repair", finished)):
        assert (done.exit_code, "nothing to" in done.output) == (0, True), done.output
    assert _digests(finished) == before
    assert {path: path.stat().st_mtime_ns for path in times if path.is_file()} == {
        path: time for path, time in times.items() if path.is_file()
    }


def test_a_missing_report_is_no_finished_work(source, copied):
    (copied / "report.html").unlink()
    refused = _build(source, copied)
    assert (refused.exit_code, "report.html is missing; pass --repair" in refused.output) == (1, True)


def test_a_source_that_changed_after_the_end_is_not_called_unchanged(raw_tree, copied, tmp_path, pieces):
    """The same sizes, another image and time: what a second download of a broken file gives."""
    out = tmp_path / "out"
    assert _build(raw_tree, out).exit_code == 0
    before = _digests(out)
    image = raw_tree / "val" / "ILSVRC2012_val_00000001.JPEG"
    old, time = image.read_bytes(), image.stat().st_mtime_ns
    new = old[:30] + bytes([old[30] + 1]) + old[31:]  # a value of the quantization table
    image.write_bytes(new)
    os.utime(image, ns=(time + 1, time + 1))
    refused = _build(raw_tree, out)
    assert refused.exit_code == 1
    assert "source files of 1 shard have changed since" in refused.output
    assert _digests(out) == before
    done = _build(raw_tree, out, "--repair")
    assert (done.exit_code, "others than before" in done.output) == (0, True), done.output
    assert {name for name, digest in _digests(out).items() if digest != before[name] and "train" in name} == set()
    assert "nothing to do" in _build(raw_tree, out).output
    image.write_bytes(old)
    os.utime(image, ns=(time, time))
    assert _build(raw_tree, out, "--repair").exit_code == 0
    assert _digests(out) == before
