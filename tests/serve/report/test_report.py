"""`eval --report`: the same counts as without it, tables and a page that are made of the predictions' rows."""

import base64
import hashlib
import json
import math
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.launch.ranks.rank import Rank
from convnext_imagenet.model.transform import evaluation_pixels
from convnext_imagenet.records.images import decode_rgb
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.thumbnails import thumbnail
from convnext_imagenet.serve import cli
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.errors import ServeError
from convnext_imagenet.serve.evaluate import evaluate
from convnext_imagenet.serve.report import real_labels
from convnext_imagenet.serve.report.folder import check_report_folder
from convnext_imagenet.serve.report.report import begin_report, read_scored, report_options, write_report

from ...page_reader import Page
from ..conftest import TRANSFORM, build_records, class_table, picture, write_checkpoint

IMAGES = [picture(seed) for seed in range(23)]
FILES = ["confusion.parquet", "per_class.parquet", "predictions", "report.html", "summary.json"]


def _call(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def records(fake, tmp_path):
    """Records whose labels the fake network knows for two rows in three."""
    best = (
        fake.logits(np.stack([evaluation_pixels(decode_rgb(image), TRANSFORM) for image in IMAGES]))
        .argmax(axis=1)
        .tolist()
    )
    assert len(set(best)) > 2, "a network that always says the same proves nothing"
    labels = [index if place % 3 else (index + 1) % 6 for place, index in enumerate(best)]
    return build_records(tmp_path / "records", IMAGES, labels)


def _report(fake, records, folder, batch_size=4, **others):
    split = Records.open(records).split("val")
    how = report_options(batch_size, 2, "CPU")
    with begin_report(folder, fake, split, others.get("real"), how) as made:
        made.job.run(lambda count: None)
        return split, made.write()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 23, 64, 5000])
def test_counts_are_those_of_evaluate_for_any_batch(fake, records, tmp_path, batch_size):
    split, found = _report(fake, records, tmp_path / "report", batch_size)
    shapes = set(fake.seen)
    assert found.accuracy == evaluate(fake.classifier(), TRANSFORM, split, batch_size, 2)
    assert set(fake.seen) == shapes, "the network saw batches of another size"
    assert 0 < found.accuracy.top1_correct < found.accuracy.rows


@pytest.mark.parametrize("batch_size", [1, 7, 32, 48, 4096, 5000])
def test_parts_are_whole_batches(batch_size):
    assert report_options(batch_size, 1, "CPU").part_rows % batch_size == 0


def test_the_command_prints_the_same_lines_and_writes_the_report(checkpoint_file, tmp_path):
    root = build_records(tmp_path / "records", IMAGES, [seed % 7 for seed in range(23)])
    command = ("eval", checkpoint_file, "--records", root, "--batch-size", 4)
    plain = _call(*command)
    assert plain.exit_code == 0, plain.output
    with_report = _call(*command, "--report", tmp_path / "report")
    assert with_report.exit_code == 0, with_report.output
    *lines, calibration, loss = with_report.stdout.splitlines()
    assert [*lines, loss] == plain.stdout.splitlines()
    assert re.fullmatch(r"expected calibration error 0\.\d{4} \(15 bins\)", calibration)
    assert f"open {tmp_path / 'report' / 'report.html'}" in with_report.stderr
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == FILES
    assert _call("verify", tmp_path / "report" / "predictions").exit_code == 0


def test_tables_and_summary_are_made_of_the_predictions(fake, records, tmp_path):
    _, found = _report(fake, records, tmp_path / "report")
    rows = pq.read_table(tmp_path / "report" / "predictions").to_pylist()
    per_class = pq.read_table(tmp_path / "report" / "per_class.parquet").to_pylist()
    assert [row["wnid"] for row in per_class] == [wnid for wnid, _ in class_table(7)]
    for line in per_class:
        own = [row for row in rows if row["label"] == line["class_index"]]
        right = sum(row["correct"] for row in own)
        assert (line["rows"], line["top1_correct"]) == (len(own), right)
        assert line["top1"] == (right / len(own) if own else None)
        assert line["named"] == sum(row["top1_index"] == line["class_index"] for row in rows)
        top5 = sum(any(guess["class_index"] == row["label"] for guess in row["topk"]) for row in own)
        assert line["top5_correct"] == top5
        confidences = [row["top1_score"] for row in own]
        assert line["mean_confidence"] == (pytest.approx(np.mean(confidences)) if own else None)
    assert [line["class_index"] for line in per_class if not line["rows"]], "no class is empty"
    pairs = pq.read_table(tmp_path / "report" / "confusion.parquet").to_pylist()
    assert sum(pair["count"] for pair in pairs) == sum(not row["correct"] for row in rows)
    wrong = [(row["label"], row["top1_index"]) for row in rows if not row["correct"]]
    assert all(pair["count"] == wrong.count((pair["true_index"], pair["named_index"])) for pair in pairs)
    assert [pair["true_wnid"] for pair in pairs] == [f"n{pair['true_index']:08d}" for pair in pairs]
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert (summary["rows"], summary["top1_correct"]) == (23, sum(row["correct"] for row in rows))
    assert summary["loss"] == math.fsum(row["loss"] for row in rows) / 23
    assert summary["expected_calibration_error"] == found.calibration_error
    assert sum(each["rows"] for each in summary["calibration_bins"]) == 23
    assert summary["real"] is None
    assert summary["provenance"]["sha256"] == fake.sha256


def test_the_page_is_whole_and_shows_the_mistakes_of_the_worst_class(fake, records, tmp_path):
    split, found = _report(fake, records, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    reader = Page(page)
    assert all(source.startswith(("#", "data:image/jpeg;base64,")) for source in reader.sources)
    assert "url(" not in page
    assert "@import" not in page
    shown = dict(re.findall(r'<img src="data:image/jpeg;base64,([^"]*)" alt="([^"]*)"', page))
    scored = read_scored(tmp_path / "report" / "predictions", split)
    wrong = [place for place in range(23) if scored.guesses[place, 0] != scored.labels[place]]
    assert shown == {base64.b64encode(thumbnail(IMAGES[place])).decode(): f"val_{place}" for place in wrong}
    for place in wrong:
        assert f"val_{place}" in reader.text
        assert f"name {scored.guesses[place, 0]} {scored.confidences[place]:.1%}" in reader.text
        assert f"true class: name {scored.labels[place]}" in reader.text
    assert f"{found.calibration_error:.4f}" in reader.text


def test_a_second_run_makes_nothing_anew_and_the_same_bytes(fake, records, tmp_path):
    _report(fake, records, tmp_path / "report")
    before = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    fake.seen.clear()
    _report(fake, records, tmp_path / "report")
    assert fake.seen == []
    assert {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()} == before


def _rows(fake, records, folder):
    split, _ = _report(fake, records, folder)
    return split, pq.read_table(folder / "predictions")


def test_rows_that_are_not_the_records_are_a_bug(fake, records, tmp_path):
    split, table = _rows(fake, records, tmp_path / "report")
    part = tmp_path / "report" / "predictions" / "part-00000.parquet"
    for changed in (table.slice(0, 22), table.take([*range(22), 0]), table.take([1, 0, *range(2, 23)])):
        pq.write_table(changed, part)
        with pytest.raises(RuntimeError, match="the manifest lists 23"):
            read_scored(part.parent, split)
    labels = table.set_column(table.column_names.index("label"), "label", [[0] * 23])
    pq.write_table(labels.cast(table.schema), part)
    with pytest.raises(RuntimeError, match="labels differ"):
        read_scored(part.parent, split)


def test_an_image_that_cannot_be_decoded_is_no_accuracy(fake, tmp_path):
    root = build_records(tmp_path / "records", [*IMAGES[:3], IMAGES[3][:100]], [0, 1, 2, 3])
    with pytest.raises(ServeError, match=r"val_3 cannot be decoded .*convnext-records verify"):
        _report(fake, root, tmp_path / "report")
    assert not (tmp_path / "report" / "summary.json").exists()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda root: root.write_text(""), "exists and is a file"),
        (lambda root: (root / "mine").mkdir(parents=True), "holds 'mine'"),
        (lambda root: ((root / "predictions").mkdir(parents=True), (root / "predictions" / "x").touch()), "holds 'x'"),
    ],
)
def test_folders_of_others_are_refused_and_left_alone(tmp_path, make, match):
    make(tmp_path / "report")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtefactError, match=match):
        check_report_folder(tmp_path / "report")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_report_may_not_lie_in_its_records_nor_go_on_with_another_checkpoint(fake, records, tmp_path):
    with pytest.raises(ServeError, match="inside the records; choose another --report"):
        _report(fake, records, records / "report")
    _report(fake, records, tmp_path / "report")
    other = load_checkpoint(write_checkpoint(tmp_path / "other.weights.safetensors", seed=4))
    with pytest.raises(ArtefactError, match=r"differs in: model\.sha256"):
        _report(other, records, tmp_path / "report")


@pytest.mark.parametrize(("rank", "lines"), [(0, 4), (1, 0)])
def test_of_several_ranks_the_first_alone_reports(checkpoint_file, records, tmp_path, monkeypatch, rank, lines):
    command = ("eval", checkpoint_file, "--records", records, "--report", tmp_path / "report", "--batch-size", 4)
    assert _call(*command).exit_code == 0
    (tmp_path / "report" / "summary.json").unlink()
    ranks = Ranks(Rank(number=rank, world=2, device=rank), lambda digits: digits)
    monkeypatch.setattr(cli, "enter_ranks", lambda *_: (ranks, "CPU"))
    result = _call(*command)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == lines
    assert (tmp_path / "report" / "summary.json").exists() == (rank == 0)


@pytest.fixture
def thousand(tmp_path, monkeypatch):
    """A checkpoint and val records of 1000 made-up classes that count as the official ones, and their real.json."""
    wnids = [wnid for wnid, _ in class_table(1000)]
    digest = hashlib.sha256("".join(f"{wnid}\n" for wnid in wnids).encode()).hexdigest()
    monkeypatch.setattr(real_labels, "OFFICIAL_WNIDS_SHA256", digest)
    checkpoint = write_checkpoint(tmp_path / "thousand.weights.safetensors", classes=1000)
    names = "ILSVRC2012_val_0000100{}"
    records = build_records(tmp_path / "thousand", IMAGES[:6], [0] * 6, classes=1000, key=names)
    return checkpoint, records, tmp_path / "real.json"


def test_real_labels_count_what_is_right_to_see(thousand, tmp_path):
    checkpoint, records, real = thousand  # val images 1000 to 1005
    command = ("eval", checkpoint, "--records", records, "--report", tmp_path / "report", "--batch-size", 3)
    assert _call(*command).exit_code == 0
    best = pq.read_table(tmp_path / "report" / "predictions")["top1_index"].to_pylist()
    entries = [[]] * 50_000
    for place, index in enumerate(best):
        entries[1000 + place - 1] = [index, 5] if place < 3 else [(index + 1) % 1000]
    entries[1005 - 1] = []
    real.write_text(json.dumps(entries))
    result = _call(*command, "--real", real)
    assert result.exit_code == 0, result.output
    assert "ReaL top-1 3/5 (60.00%), 1 image without ReaL labels" in result.stdout
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["real"] == {"rows": 5, "correct": 3, "without_labels": 1, "accuracy": 0.6}
    assert summary["provenance"]["real labels"] == hashlib.sha256(real.read_bytes()).hexdigest()
    assert "ReaL top-1" in (tmp_path / "report" / "report.html").read_text()


def test_what_real_labels_cannot_be_used_for_is_said_before_the_network_runs(
    thousand, checkpoint_file, records, tmp_path
):
    checkpoint, of_thousand, real = thousand
    real.write_text(json.dumps([[1]] * 50_000))
    report = ("--report", tmp_path / "report", "--real", real)
    nameless = build_records(tmp_path / "nameless", IMAGES[:2], [0, 1], classes=1000)
    for command, match in [
        (
            (checkpoint_file, "--records", records, *report),
            "the wnids of the network (7 classes) are not the official 1,000",
        ),
        ((checkpoint, "--records", nameless, *report), "'val_0' is not the key of a val image"),
        ((checkpoint, "--records", of_thousand, *report[:-1], records), "Is a directory"),
    ]:
        result = _call("eval", *command)
        assert result.exit_code == 1, result.output
        assert match in result.stderr
        assert result.stderr.count("Error: ") == 1
        assert not (tmp_path / "report").exists()
    alone = _call("eval", checkpoint, "--records", of_thousand, "--real", real)
    assert alone.exit_code == 2
    assert "--real needs --report" in alone.stderr


def test_write_report_leaves_no_summary_when_the_page_fails(fake, records, tmp_path, monkeypatch):
    split, _ = _report(fake, records, tmp_path / "report")
    (tmp_path / "report" / "summary.json").unlink()
    monkeypatch.setattr("convnext_imagenet.serve.report.report.evaluation_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path / "report", split, fake.card.classes, None, {})
    assert not (tmp_path / "report" / "summary.json").exists()
