"""What --json of `convnext-records` prints is what docs/json.md says, and nothing else is on standard output."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from convnext_imagenet.records.cli import main

from ..json_page import check_object, check_progress
from .conftest import build_records, make_rows


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


def test_a_push_and_a_pull_count_what_moved(records_root: Path, tmp_path: Path) -> None:
    uri, out = f"file://{tmp_path}/store", tmp_path / "pulled"
    size = sum(path.stat().st_size for path in (records_root / "train").iterdir() if path.suffix != ".json")
    options = ("--json", "--progress", "json")
    pushes = [_call("push", records_root, uri, *options) for _ in range(2)]
    pulls = [_call("pull", uri, "--out", out, *options) for _ in range(2)]
    sent, again = (check_object(done.stdout, "convnext-records push") for done in pushes)
    assert sent == {"records": str(records_root), "uri": uri, "shards_moved": 2, "bytes_moved": size}
    assert again == sent | {"shards_moved": 0, "bytes_moved": 0}
    fetched, there = (check_object(done.stdout, "convnext-records pull") for done in pulls)
    assert fetched == sent | {"records": str(out)}
    assert there == again | {"records": str(out)}
    assert check_progress(pushes[0].stderr) == {"push": size}
    assert check_progress(pulls[0].stderr) == {"pull": size}


def test_a_diff_counts_every_split_also_where_nothing_differs(records_root: Path, tmp_path: Path) -> None:
    more = build_records(tmp_path / "more", make_rows(9))
    for pair, added, removed in (((records_root, more), 2, 0), ((more, records_root), 0, 2), ((more, more), 0, 0)):
        found = check_object(_call("diff", *pair, "--json").stdout, "convnext-records diff")
        assert (found["rows"], found["added"], found["removed"]) == (
            added + removed,
            {"train": added},
            {"train": removed},
        )
        assert (found["relabelled"], found["changed"], found["out"]) == ({"train": 0}, {"train": 0}, None)
        assert (found["before"], found["after"]) == tuple(map(str, pair))


def test_verify_of_an_export_says_what_is_wrong_with_it(records_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _call("export", records_root, "--format", "folder", "--out", out)
    whole = check_object(_call("verify", out, "--json").stdout, "convnext-records verify")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.suffix in (".JPEG", ".sha256"))
    assert (whole["rows"], whole["bytes"], whole["problems"]) == (7, size, [])
    image = next(out.rglob("*.JPEG"))
    image.unlink()
    done = CliRunner().invoke(main, ["verify", str(out), "--json"])
    assert done.exit_code == 1
    assert check_object(done.stdout, "convnext-records verify")["problems"] == [f"{image}: missing"]
