"""`build --drop`: images that an audit or people name are left out or get another class, and nothing else changes."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from convnext_imagenet.ingest.cli import main as ingest
from convnext_imagenet.records.audit.decisions import open_judged
from convnext_imagenet.records.cli import main as records


def _jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _tree(root, first=0):
    """Three images of two classes in each split; val's second dog is train's first cat."""
    for split, start in (("train", 0), ("val", 10)):
        for number in range(6):
            path = root / split / ("cats" if number % 2 else "dogs") / f"{split}{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_jpeg(first + start + number))
    (root / "val" / "dogs" / "val2.jpg").write_bytes(_jpeg(first + 1))
    return root


def _invoke(command, *words):
    return CliRunner().invoke(command, [str(word) for word in words])


def _build(data, out, *words):
    return _invoke(ingest, "build", data, "--out", out, "--unverified", "--classes", "found", "--workers", "1", *words)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A raw tree, its records and their audit, which no test changes."""
    root = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        data = _tree(root / "data")
        assert _build(data, root / "records").exit_code == 0
        done = _invoke(records, "audit", root / "records", "--out", root / "audit")
        assert done.exit_code == 0, done.output
    return root


@pytest.fixture
def audited(built):
    return built / "data", built / "audit"


def _index(out):
    return {(row["split"], row["key"]): row for row in pq.read_table(out / "index.parquet").to_pylist()}


def test_the_proposals_of_an_audit_leave_train(audited, tmp_path):
    data, audit = audited
    said = _build(data, tmp_path / "clean", "--drop", audit, "--dry-run", "--json")
    assert json.loads(said.stdout)["images"] == {"train": 5, "val": 6}
    assert len(json.loads(said.stdout)["not_stored"]) == 1
    done = _build(data, tmp_path / "clean", "--drop", audit, "--max-quarantine", 0)
    assert done.exit_code == 0, done.output
    quarantine = pq.read_table(tmp_path / "clean" / "quarantine.parquet").to_pylist()
    assert [(row["split"], row["reason"]) for row in quarantine] == [("train", "dropped")]
    assert quarantine[0]["detail"].startswith("leak of val/")
    before, after = _index(audited[1].parent / "records"), _index(tmp_path / "clean")
    gone = before.keys() - after.keys()
    assert gone == {("train", quarantine[0]["key"])}
    assert all(after[key]["sha256"] == before[key]["sha256"] for key in after)
    source = json.loads((tmp_path / "clean" / "manifest.json").read_text())["source"]
    mark = json.loads((audit / "_SUCCESS").read_text())
    assert source["drop"] == {"sha256": mark["manifest_sha256"], "audit_sha256": mark["manifest_sha256"]}
    assert source["dropped"] == {"train": 1, "val": 0}
    assert _invoke(records, "verify", tmp_path / "clean").exit_code == 0


def test_decisions_relabel_and_the_index_says_so(audited, tmp_path):
    data, audit = audited
    decisions = tmp_path / "decisions.csv"
    assert _invoke(records, "decisions", audit, "--out", decisions).exit_code == 0
    lines = [line.split(",") for line in decisions.read_text().splitlines()]
    place = {name: number for number, name in enumerate(lines[0])}
    for line in lines[1:]:
        is_val = line[place["split"]] == "val"
        line[place["decision"]], line[place["suggested_wnid"]] = ("relabel", "cats") if is_val else ("keep", "")
    decisions.write_text("\n".join(",".join(line) for line in lines) + "\n")
    done = _build(data, tmp_path / "clean", "--drop", decisions)
    assert done.exit_code == 0, done.output
    before, after = _index(audited[1].parent / "records"), _index(tmp_path / "clean")
    changed = {
        key: (after[key]["wnid"], after[key]["label_source"])
        for key in after
        if after[key]["label"] != before[key]["label"]
    }
    assert list(changed.values()) == [("cats", "relabelled from dogs")]
    assert {row["label_source"] for key, row in after.items() if key not in changed} == {"source"}
    assert _invoke(records, "verify", tmp_path / "clean").exit_code == 0
    decisions.write_text(decisions.read_text().replace(",cats,", ",birds,"))
    assert "relabelled as 'birds', which is no class" in _build(data, tmp_path / "no", "--drop", decisions).output


def test_records_with_another_class_for_an_image_grow_from_the_whole_tree(audited, tmp_path):
    data, audit = audited

    def relabel(rows):
        for row in rows:
            row["decision"], row["suggested_wnid"] = ("relabel", "cats") if row["split"] == "val" else ("keep", "")

    _decisions(audit, tmp_path / "decisions.csv", relabel)
    assert _build(data, tmp_path / "clean", "--drop", tmp_path / "decisions.csv").exit_code == 0
    more = Path(shutil.copytree(data, tmp_path / "more"))
    (more / "train" / "cats" / "new.jpg").write_bytes(_jpeg(77))
    for parent, grown in (("clean", "grown"), ("grown", "again")):
        done = _invoke(ingest, "build", more, "--onto", tmp_path / parent, "--out", tmp_path / grown, "--unverified")
        assert done.exit_code == 0, done.output
    sources = [row["label_source"] for row in _index(tmp_path / "again").values()]
    assert sorted(sources) == ["relabelled from dogs", *["source"] * 12]


def test_an_audit_of_a_folder_is_refused_as_that(audited, tmp_path):
    data, _ = audited
    assert _invoke(records, "audit", data, "--out", tmp_path / "audit").exit_code == 0
    done = _build(data, tmp_path / "clean", "--drop", tmp_path / "audit")
    assert done.exit_code == 1
    assert "an audit of a folder, whose images are named otherwise than those of records" in done.output


def test_an_audit_of_other_data_is_refused(audited, tmp_path):
    _, audit = audited
    other = _tree(tmp_path / "other", first=100)
    done = _build(other, tmp_path / "clean", "--drop", audit)
    assert done.exit_code == 1
    assert "were not built from" in done.output
    assert not (tmp_path / "clean" / "_SUCCESS").exists()


def _decisions(audit, path, change=lambda rows: None):
    """The file of decisions of an audit, as rows that `change` may change."""
    assert _invoke(records, "decisions", audit, "--out", path).exit_code == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    _write(path, rows)
    return rows


def _write(path, rows, delimiter=",", start=""):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes((start + buffer.getvalue()).encode())


@pytest.mark.parametrize(("delimiter", "start"), [(";", "\ufeff"), ("\t", "\ufeff"), (",", "\ufeff")])
def test_a_file_that_a_spreadsheet_saved_means_the_same(audited, tmp_path, delimiter, start):
    path = tmp_path / "decisions.csv"
    rows = _decisions(audited[1], path)
    rows[0] |= {"decision": "keep", "note": "a note; with, marks"}
    rows[1] |= {"decision": "drop"}
    _write(path, rows)
    expected = open_judged(path).rows
    _write(path, [*rows, dict.fromkeys(rows[0], "")], delimiter, start)  # spreadsheets leave empty rows behind
    assert open_judged(path).rows == expected
    assert [row.is_dropped for row in expected] == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "nobody"}, "of DATA has no image 'nobody'"),
        ({"split": "trian"}, "rows of split 'trian', must be one of train, val"),
        ({"decision": "delete"}, "decision 'delete', must be empty or one of keep, drop, relabel"),
        ({"audit_sha256": ""}, "rows of 2 audits"),
    ],
)
def test_a_row_that_names_nothing_is_refused_and_nothing_is_written(audited, tmp_path, change, message):
    data, audit = audited
    path = tmp_path / "decisions.csv"
    _decisions(audit, path, lambda rows: rows[0].update({"decision": "drop"} | change))
    done = _build(data, tmp_path / "clean", "--drop", path)
    assert done.exit_code == 1, done.output
    assert message in done.output
    assert not (tmp_path / "clean").exists()


def test_a_file_in_another_encoding_is_refused(audited, tmp_path):
    data, audit = audited
    path = tmp_path / "decisions.csv"
    _decisions(audit, path, lambda rows: rows[0].update(note="Käfer"))
    path.write_bytes(path.read_text().encode("latin-1"))
    assert "save the file of decisions as CSV in UTF-8" in _build(data, tmp_path / "clean", "--drop", path).output


@pytest.mark.parametrize("splits", [("train",), ("val",), ("train", "val")])
def test_dropping_every_image_of_a_split_is_refused(audited, tmp_path, splits):
    data, audit = audited
    path = tmp_path / "decisions.csv"
    rows = _decisions(audit, path)
    everything = [
        rows[0] | {"split": split, "key": key, "decision": "drop"}
        for split, key in _index(audited[1].parent / "records")
        if split in splits
    ]
    _write(path, everything)
    done = _build(data, tmp_path / "clean", "--drop", path)
    assert done.exit_code == 1, done.output
    assert f"drops every image of {splits[0]}; decide to keep some" in done.output
    assert not (tmp_path / "clean").exists()


def test_an_interrupted_audit_drops_nothing(audited, tmp_path):
    data, audit = audited
    unfinished = shutil.copytree(audit, tmp_path / "audit")
    (unfinished / "_SUCCESS").unlink()
    done = _build(data, tmp_path / "clean", "--drop", unfinished)
    assert done.exit_code == 1
    assert "unfinished" in done.output
    assert "convnext-records audit" in done.output
