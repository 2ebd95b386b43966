"""AUDIT directories: resumed with the same bytes, refused where they do not fit, and what follows from them."""

import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.errors import ArtefactError, Interrupted
from convnext_imagenet.records.audit import leaks, parts
from convnext_imagenet.records.audit.decisions import open_judged
from convnext_imagenet.records.audit.doubted import doubted_sample_ids
from convnext_imagenet.records.audit.evidence import Asked
from convnext_imagenet.records.audit.job import open_audit
from convnext_imagenet.records.audit.leaks import leak_line, remember_leaks
from convnext_imagenet.records.audit.messages import audit_lines
from convnext_imagenet.records.audit.predictions import open_predictions_of
from convnext_imagenet.records.audit.sources import open_records, open_source
from convnext_imagenet.records.cli import main
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.schema import Row

from ...records_of import finished_records
from .conftest import jpeg, picture
from .records_of_copies import WNIDS, finished_predictions, records_of_copies


def _run(source, out, predictions=(), stop_after=None, root=Path("/nowhere")):
    seen = []
    with open_audit(source, Asked(tuple(predictions)), root, out, 2) as job:
        job.write_parts(seen.append, lambda: stop_after is not None and sum(seen) >= stop_after)
        return job.finish(tuple(predictions), job.compare())


def _digests(out):
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 4)
    monkeypatch.setattr(parts, "_AT_A_TIME", 2)


def test_what_an_audit_of_records_finds(tmp_path, small_parts):
    root = records_of_copies(tmp_path / "records")
    summary = _run(open_source(root), tmp_path / "audit")
    rows = {(row["split"], row["key"]): row for row in pq.read_table(tmp_path / "audit" / "rows.parquet").to_pylist()}
    assert {key: (row["kind"], row["also"], row["proposal"]) for key, row in rows.items()} == {
        ("train", "train_0"): ("leak", [], "drop"),
        ("val", "val_0"): ("leak", [], "keep"),
        ("train", "train_1"): ("leak", ["conflict"], "drop"),
        ("val", "val_1"): ("leak", ["conflict"], "keep"),
        ("train", "train_2"): ("conflict", [], ""),
        ("train", "train_3"): ("conflict", [], ""),
    }
    assert summary["pairs"]["kinds"] == {"equal": 1, "mirrored": 1, "near": 1}
    assert rows["val", "val_1"]["partner"] == "train/train_1"
    pairs = pq.read_table(tmp_path / "audit" / "pairs.parquet").to_pylist()
    assert (pairs[0]["key_a"], pairs[0]["key_b"], pairs[0]["same_label"]) == ("train_1", "val_1", False), "worst first"
    page = (tmp_path / "audit" / "report.html").read_text()
    assert page.count("<img ") == 6


def test_a_stopped_audit_resumes_with_the_same_bytes(tmp_path, small_parts):
    source = open_source(records_of_copies(tmp_path / "records"))
    _run(source, tmp_path / "whole")
    with pytest.raises(Interrupted, match="resume"):
        _run(source, tmp_path / "stopped", stop_after=6)
    with pytest.raises(ArtefactError, match=r"unfinished.*convnext-records audit"):
        open_judged(tmp_path / "stopped")
    done = sorted(path.name for path in (tmp_path / "stopped" / "fingerprints").glob("*.json"))
    assert done == ["part-00000.json"]
    _run(source, tmp_path / "stopped")
    assert _digests(tmp_path / "stopped") == _digests(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_command_resumes_with_the_same_bytes(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(60):
        (images / f"{seed}.jpg").write_bytes(jpeg(picture(seed, 400, 300)))
    code = (
        "import sys; from convnext_imagenet.records.audit import parts; parts.PART_ROWS = 8; parts._AT_A_TIME = 2; "
        "from convnext_imagenet.records.cli import main; main(sys.argv[1:])"
    )

    def command(out):
        return [sys.executable, "-c", code, "audit", str(images), "--out", str(out), "--workers", "1"]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    kills, out = 0, tmp_path / "killed"
    for delay in (0.0, 0.2):
        process = subprocess.Popen(command(out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        before = len(list((out / "fingerprints").glob("*.json")))
        while process.poll() is None and len(list((out / "fingerprints").glob("*.json"))) <= before:
            time.sleep(0.005)
        time.sleep(delay)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    subprocess.run(command(out), check=True, capture_output=True)
    assert _digests(out) == _digests(tmp_path / "whole")


def test_a_damaged_part_is_measured_again(tmp_path, small_parts):
    source, out = open_source(records_of_copies(tmp_path / "records")), tmp_path / "audit"
    _run(source, out)
    before = _digests(out)
    small = out / "fingerprints" / "part-00001.small"
    small.write_bytes(bytes(small.stat().st_size))
    _run(source, out)
    assert _digests(out) == before


def test_an_audit_belongs_to_its_records(tmp_path):
    first, second = (Records.open(records_of_copies(tmp_path / f"records-{seed}", seed)) for seed in (0, 1))
    _run(open_records(first), tmp_path / "audit")
    judged = open_judged(tmp_path / "audit")
    assert doubted_sample_ids(judged, first, "val") == {0, 1}
    assert doubted_sample_ids(judged, first, "train") == {0, 1, 2, 3}
    with pytest.raises(ArtefactError, match="an audit of other images"):
        doubted_sample_ids(judged, second, "val")
    with pytest.raises(ArtefactError, match=r"belongs to another run .*manifest_sha256"):
        _run(open_records(second), tmp_path / "audit")
    with pytest.raises(ArtefactError, match="lies inside"):
        _run(open_records(first), first.root / "audit", root=first.root)


def test_a_run_hears_of_leaks(tmp_path):
    root = records_of_copies(tmp_path / "my records")
    assert leak_line(Records.open(root)) is None, "no two splits share the bytes of an image"
    result = CliRunner().invoke(main, ["audit", str(root), "--out", str(tmp_path / "audit")])
    assert result.exit_code == 0, result.output
    assert "2 across splits, 2 with different labels" in result.output
    line = leak_line(Records.open(root))
    assert line is not None
    assert line.startswith(f"val leaks: 2 of 6 images have a copy in another split, says {tmp_path / 'audit'}")
    assert f"--records {shlex.quote(str(root))} --without " in line


def test_without_an_audit_a_run_hears_of_equal_bytes(tmp_path):
    image, other = jpeg(picture(1)), jpeg(picture(2))
    splits = {"train": [Row(image, 0, 0, "a", 120, 160)], "val": [Row(image, 0, 0, "b", 120, 160)]}
    splits["val"].append(Row(other, 0, 1, "c", 120, 160))
    root = finished_records(tmp_path / "records", splits, [ClassEntry(0, WNIDS[0], "name")], {})
    line = leak_line(Records.open(root))
    assert line is not None
    assert line.startswith("val leaks: 1 of 2 images have the bytes of an image in another split; `convnext-records")


def _decided(path, changes):
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("decision")
    for number, line in enumerate(lines):
        cells = line.split(",")
        if cells[1] in changes:
            cells[place] = changes[cells[1]]
            lines[number] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")


def test_decisions_make_a_round_trip_and_a_second_person_continues(tmp_path):
    records = Records.open(records_of_copies(tmp_path / "records"))
    _run(open_records(records), tmp_path / "audit")
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    run = CliRunner().invoke
    assert "6 images (6 undecided)" in run(main, ["decisions", str(tmp_path / "audit"), "--out", str(first)]).output
    assert doubted_sample_ids(open_judged(first), records, "val") == {0, 1}, "undecided: as the audit itself"
    _decided(first, {"val_0": "keep", "train_2": "drop"})
    assert doubted_sample_ids(open_judged(first), records, "val") == {1}
    result = run(main, ["decisions", str(tmp_path / "audit"), "--from", str(first), "--out", str(second)])
    assert "1 drop, 1 keep, 4 undecided" in result.output
    assert second.read_bytes() == first.read_bytes()
    dropped = {row.key for row in open_judged(second).rows if row.is_dropped}
    assert dropped == {"train_0", "train_1", "train_2"}
    _decided(second, {"val_0": "drop"})
    result = run(
        main, ["decisions", str(tmp_path / "audit"), "--from", str(first), "--from", str(second), "--out", "x"]
    )
    assert result.exit_code == 1
    assert "is 'drop' here and 'keep' in an earlier file" in result.output


def test_no_decision_is_lost_without_a_word(tmp_path):
    _run(open_source(records_of_copies(tmp_path / "records")), tmp_path / "audit")
    path = tmp_path / "decisions.csv"
    command = ["decisions", str(tmp_path / "audit"), "--out", str(path)]
    for _ in range(2):
        assert CliRunner().invoke(main, command).exit_code == 0, "a file without decisions is replaced"
    _decided(path, {"val_0": "keep"})
    decided = path.read_bytes()
    refused = CliRunner().invoke(main, command)
    assert (refused.exit_code, "1 row with a decision or a note would be lost" in refused.output) == (1, True)
    assert CliRunner().invoke(main, [*command, "--from", str(path)]).exit_code == 0
    assert path.read_bytes() == decided
    path.write_text(path.read_text().replace("val,val_0,", "val,val_00,"))
    refused = CliRunner().invoke(main, [*command, "--from", str(path)])
    assert "val val_00 is not flagged in" in refused.output
    path.write_text("notes\nof a person\n")
    refused = CliRunner().invoke(main, command)
    assert "it was not replaced: choose another --out" in refused.output
    assert path.read_text() == "notes\nof a person\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("decision,note", "verdict,note"), "no column 'decision'"),
        (lambda text: text.replace(",drop,,", ",drop,perhaps,", 1), r"row \d: decision 'perhaps'"),
        (lambda text: text.replace(",drop,,", ",drop,relabel,", 1), "relabel without a class"),
        (lambda text: text + text.splitlines()[1] + "\n", "stands there twice"),
        (lambda text: text.splitlines()[0] + "\n", "no rows"),
        (lambda text: text.replace(",leak,", ",leek,", 1), "kind 'leek'"),
    ],
)
def test_a_broken_file_of_decisions_is_refused(tmp_path, change, message):
    _run(open_source(records_of_copies(tmp_path / "records")), tmp_path / "audit")
    path = tmp_path / "decisions.csv"
    CliRunner().invoke(main, ["decisions", str(tmp_path / "audit"), "--out", str(path)])
    path.write_text(change(path.read_text()))
    with pytest.raises(ArtefactError, match=message):
        open_judged(path)


def test_doubtful_labels_need_predictions_and_are_ordered(tmp_path):
    records = Records.open(records_of_copies(tmp_path / "records"))
    source = open_records(records)
    predictions = open_predictions_of(source, finished_predictions(tmp_path / "predictions", records, "train"))
    summary = _run(source, tmp_path / "audit", [predictions])
    rows = pq.read_table(tmp_path / "audit" / "rows.parquet").to_pylist()
    doubtful = {row["key"]: row["suggested_wnid"] for row in rows if "label" in (row["kind"], *row["also"])}
    assert doubtful == {f"train_{k}": WNIDS[0] for k in range(1, 12, 2)}
    assert summary["label_noise"] == {"train": {WNIDS[0]: 0.0, WNIDS[1]: 1.0}}
    count = summary["images"]["train"]
    assert f"  labels judged: {count} of train; doubtful: {len(doubtful)}" in audit_lines(tmp_path, summary)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": "0" * 64}, "predictions of other inputs than train or val of these records"),
        ({"extras": ("features",)}, "without probabilities of all classes.*--logits"),
        ({"wnids": (*WNIDS, "n00000003")}, "network with 3 classes, but the records have 2"),
        ({"wnids": ("n00000009", WNIDS[1])}, "class 0 is n00000009 there and n00000001"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path, changes, message):
    records = Records.open(records_of_copies(tmp_path / "records"))
    path = finished_predictions(tmp_path / "predictions", records, "val", **changes)
    with pytest.raises(ArtefactError, match=message):
        open_predictions_of(open_records(records), path)


def test_bad_sources_have_a_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "empty", "holds no visible file"), (tmp_path / "none", "no such directory")):
        with pytest.raises(ArtefactError, match=message):
            open_source(path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no image")
    (tmp_path / "broken" / "b.jpg").write_bytes(jpeg(picture(1)))
    summary = _run(open_source(tmp_path / "broken"), tmp_path / "audit")
    assert summary["flags"]["unreadable"] == 1
    assert re.search("cannot be decoded", (tmp_path / "audit" / "report.html").read_text())
    row = open_judged(tmp_path / "audit").rows[0]
    assert (row.key, row.kind, replace(row, decision="keep").is_dropped) == ("a.jpg", "unreadable", False)


def test_partners_and_labels_of_a_folder_are_those_of_its_files(tmp_path):
    images, out = tmp_path / "images", tmp_path / "audit"
    for name, seed in (("train/cat/1.jpg", 1), ("val/cat/2.jpg", 1), ("3.jpg", 2), ("4.jpg", 2), ("val/5.jpg", 1)):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(jpeg(picture(seed)))
    summary = _run(open_source(images), out, root=images)
    rows = {row["key"]: row["partner"] for row in pq.read_table(out / "rows.parquet").to_pylist()}
    assert rows["val/cat/2.jpg"] == "train/cat/1.jpg"
    assert rows["4.jpg"] == "3.jpg"
    assert summary["pairs"]["different_labels"] == 0, "an image without a class has no other one"
    pairs = pq.read_table(out / "pairs.parquet").to_pylist()
    assert {pair["key_b"]: pair["same_label"] for pair in pairs} == {
        "4.jpg": None, "val/5.jpg": None, "val/cat/2.jpg": True,
    }  # fmt: skip


@pytest.mark.parametrize(("near", "images", "expected"), [(60, 200, True), (60, 400, False), (40, 45, False)])
def test_images_that_look_alike_are_said_to_be_so(tmp_path, monkeypatch, near, images, expected):
    summary = {
        "images": {"train": images - 10, "val": 10},
        "decoded": images,
        "pairs": {"total": near, "kinds": {"near": near}, "images_in_near_pairs": near, "across_splits": 3,
                  "different_labels": 0},
        "candidates": {"left_out": 0},
        "flags": {},
        "leaks": {"train": 3, "val": 3},
        "label_noise": {},
    }  # fmt: skip
    assert any("near another one" in line for line in audit_lines(tmp_path, summary)) == expected
    source = open_records(Records.open(records_of_copies(tmp_path / "records")))
    monkeypatch.setattr(leaks, "is_finished", lambda path: True)
    remember_leaks(source, summary, tmp_path / "audit")
    assert leak_line(source.records).startswith("val may leak: 3 of" if expected else "val leaks: 3 of")
