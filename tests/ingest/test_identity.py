"""RECORDS are known by what they hold: rules that changed are refused by name, and other rows are other records."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.base.plan_changes import differences
from convnext_imagenet.ingest.errors import QuarantineError
from convnext_imagenet.ingest.make_plan import make_plan
from convnext_imagenet.ingest.shards import plan as shards_plan
from convnext_imagenet.ingest.shards.build import RecordsBuild, open_build
from convnext_imagenet.ingest.shards.plan import IngestPlan, PlannedRow
from convnext_imagenet.ingest.shards.pool import LocalPool
from convnext_imagenet.ingest.shards.source_reader import SourceReader
from convnext_imagenet.ingest.source.layout import scan_tree
from convnext_imagenet.records.image_headers import BadImage
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.inputs.records import open_split
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.run.plan import run_plan

pytestmark = pytest.mark.usefixtures("write_here")
RULES = {
    "image_checks": "CHECKS_VERSION",
    "shard_order": "SHARD_ORDER_VERSION",
    "writing": "WRITING_VERSION",
}


def _plan(data: Path) -> IngestPlan:
    return make_plan(scan_tree(data), classes="found", unverified=False, devkit=None, seed=0)


def _write(job: RecordsBuild, allowed: int = 1) -> Any:
    job.write(job.unfinished(), LocalPool(1), lambda count: None)
    return job.finish(allowed)


def _build(data: Path, out: Path, allowed: int = 1) -> Records:
    with open_build(_plan(data), data, out) as job:
        _write(job, allowed)
    return Records.open(out)


def _let_one_time_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    read = SourceReader.read

    def read_slowly(self: SourceReader, row: PlannedRow) -> bytes:
        if row.path.endswith(name):
            raise BadImage("timeout", "decoding took longer than 60 s")
        return read(self, row)

    monkeypatch.setattr(SourceReader, "read", read_slowly)


def test_records_of_one_plan_with_other_rows_are_others_to_runs_and_predictions(
    raw_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, again = (_build(raw_tree, tmp_path / name) for name in ("whole", "again"))
    made = [whole, again]
    for key in ("n00000010_0", "n00000010_1"):
        with monkeypatch.context() as patch:
            _let_one_time_out(patch, f"{key}.JPEG")
            made.append(_build(raw_tree, tmp_path / key))
    assert [records.manifest.splits["train"].rows for records in made] == [18, 18, 17, 17]
    assert len({records.manifest.plan_id for records in made}) == 1, "the plan tells only what was asked for"

    config = load_config("paper-tiny")
    runs = [run_plan(config, records) for records in made]
    inputs = [open_split(records.root, "val", []).sha256 for records in made]
    assert runs[0] == runs[1]
    assert inputs[0] == inputs[1], "equal records have equal manifests"
    assert len(set(inputs)) == 3
    for other in runs[2:]:
        assert [each.key for each in differences(runs[0], other)] == ["records.manifest_sha256"]
    assert runs[0]["records"]["manifest_sha256"] == sha256_file(whole.root / "manifest.json")


@pytest.mark.parametrize("rule", RULES)
def test_shards_of_two_programs_do_not_end_in_one_directory(
    raw_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
):
    (raw_tree / "train" / "n00000010" / "n00000010_0.JPEG").write_bytes(b"RIFF\x00\x00\x00\x00WEBP")
    out = tmp_path / "out"
    with pytest.raises(QuarantineError):
        _build(raw_tree, out, allowed=0)
    before = sorted(out.rglob("*"))
    with monkeypatch.context() as newer:
        now = getattr(shards_plan, RULES[rule])
        newer.setattr(shards_plan, RULES[rule], now + 1)
        with pytest.raises(ArtefactError) as refused:
            _build(raw_tree, out)
        assert f"(differs in: rules.{rule}): rules.{rule} is {now} in the directory, now {now + 1}" in str(
            refused.value
        )
        assert sorted(out.rglob("*")) == before
        another = _build(raw_tree, tmp_path / "another")
    assert "choose another directory, or delete this one, or resume it with the versions that started it" in str(
        refused.value
    )
    assert _build(raw_tree, out).manifest.plan_id != another.manifest.plan_id, "resumed by the program that started it"
    shutil.rmtree(out)
    with monkeypatch.context() as newer:
        newer.setattr(shards_plan, RULES[rule], now + 1)
        assert _build(raw_tree, out).manifest_sha256 == another.manifest_sha256
