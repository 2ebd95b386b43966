"""What --json of `convnext-records` prints is what docs/json.md says, and nothing else is on standard output."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from convnext_imagenet.records.cli import main

from ..json_page import check_object, check_progress


def _call(*arguments: object) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


def test_an_audit_and_its_progress(records_root: Path, tmp_path: Path) -> None:
    words = ("audit", records_root, "--out", tmp_path / "audit", "--workers", 1, "--json", "--progress", "json")
    done = _call(*words)
    value = check_object(done.stdout, "convnext-records audit")
    summary = json.loads((tmp_path / "audit" / "summary.json").read_text())
    assert (value["images"], value["flags"]) == (summary["images"], summary["flags"])
    assert value["images"]["train"] == 7
    assert value["pairs"] == summary["pairs"]["total"]
    assert check_progress(done.stderr)["audit"] == sum(value["images"].values())


def test_an_export_that_is_made_and_one_that_is_there(records_root: Path, tmp_path: Path) -> None:
    words = ("export", records_root, "--format", "parquet", "--out", tmp_path / "out", "--json")
    made, found = (check_object(_call(*words).stdout, "convnext-records export") for _ in range(2))
    assert (made["rows"]["train"], made["was_finished"]) == (7, False)
    assert made["shards_made"] > 0
    assert (found["rows"], found["was_finished"], found["shards_made"]) == (made["rows"], True, 0)


def test_verify_of_a_directory_counts_rows_and_at_a_uri_bytes(records_root: Path, tmp_path: Path) -> None:
    here = check_object(_call("verify", records_root, "--json").stdout, "convnext-records verify")
    _call("push", records_root, f"file://{tmp_path}/store")
    there = check_object(_call("verify", f"file://{tmp_path}/store", "--json").stdout, "convnext-records verify")
    assert (here["rows"], here["bytes"], here["problems"]) == (7, None, [])
    assert (there["rows"], there["problems"]) == (None, [])
    assert there["bytes"] >= sum(path.stat().st_size for path in records_root.rglob("*.mindrecord"))
