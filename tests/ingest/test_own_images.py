"""The same images in any form that people have give the same records; what is wrong in a form is said by its line."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.ingest.cli import main
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.verify import verify_records

from .own_images import FORMS, Images, make_images, with_splits

SPLIT_ONLY = {"split folders"}


@pytest.fixture(autouse=True)
def write_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let shards be written in this process, which is faster than a new one."""

    def run_here(function, tasks, count, workers, on_progress, on_unit) -> None:
        for task in tasks:
            function(task, on_progress)

    monkeypatch.setattr("convnext_imagenet.ingest.shards.pool.run_units", run_here)


def _run(data: Path, out: Path, *options: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["build", str(data), "--out", str(out), *map(str, options)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def _build(data: Path, out: Path, *options: object) -> str:
    code, output = _run(data, out, *options)
    assert code == 0, output
    assert verify_records(out).problems == ()
    return output


def _shards(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*/*.mindrecord"))}


def _split_of(out: Path) -> dict[str, str]:
    rows = pq.read_table(out / "index.parquet", columns=["key", "split"]).to_pylist()
    return {row["key"]: row["split"] for row in rows}


def _compare(forms: dict, images: Images, tmp_path: Path, options: tuple[object, ...] = ()) -> Path:
    seen = {}
    for form, make in forms.items():
        make(tmp_path / form, images)
        before = sorted(path for path in (tmp_path / form).rglob("*"))
        _build(tmp_path / form, tmp_path / f"{form}-out", *options)
        assert sorted((tmp_path / form).rglob("*")) == before, "DATA is never written to"
        seen[form] = _shards(tmp_path / f"{form}-out")
    first = next(iter(seen.values()))
    assert len(first) >= 2
    assert [form for form, shards in seen.items() if shards != first] == []
    assert not list(tmp_path.glob(".*unpacked")), "unpacked files are removed"
    return tmp_path / f"{next(iter(forms))}-out"


@pytest.mark.slow
def test_eight_forms_of_400_images_give_the_same_shards(tmp_path: Path):
    images = make_images(400)
    without = {form: make for form, make in FORMS.items() if form not in SPLIT_ONLY}
    out = _compare(without, images, tmp_path, ("--val-fraction", 0.2, "--test-fraction", 0.1))
    manifest = Records.open(out).manifest
    assert {name: split.rows for name, split in manifest.splits.items()}.keys() == {"train", "val", "test"}
    assert sum(split.rows for split in manifest.splits.values()) == 400
    assert all(min(split.rows_per_class) > 0 for split in manifest.splits.values())
    assert manifest.source["labels"] == "as given"
    whole = {form: make for form, make in FORMS.items() if form != "root folders"}
    split_out = _compare(whole, with_splits(images, _split_of(out)), tmp_path / "with-splits")
    assert _shards(split_out) == _shards(out), "a split that is given is the one that was made"
