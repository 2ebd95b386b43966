"""metrics.jsonl: no epoch twice. Sums of an epoch: nothing is counted twice, and old ones can be read."""

import json
from pathlib import Path

import pytest

from convnext_imagenet.serve.evaluate import Accuracy
from convnext_imagenet.train.run.epoch import (
    EpochReport,
    EpochSums,
    FirstStep,
    append_metrics,
    gap_warnings,
    metrics_line,
    read_metrics,
    truncate_metrics,
)


def test_lines_of_later_epochs_go_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2, 3):
        append_metrics(path, {"epoch": epoch, "val_top1": None})
    truncate_metrics(path, last_epoch=2)
    append_metrics(path, {"epoch": 3, "val_top1": 0.5})
    assert [line["epoch"] for line in read_metrics(path)] == [1, 2, 3]
    assert read_metrics(path)[-1]["val_top1"] == 0.5


def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"epoch": 1})
    with path.open("a") as file:
        file.write('{"epoch": 2, "train_lo')
    truncate_metrics(path, last_epoch=2)
    assert path.read_text() == '{"epoch": 1}\n'


@pytest.mark.parametrize(
    "text", ["[1]", "null", "{}", '{"epoch": "2"}', '{"epoch": 1.5}', '{"epoch": 0}', '{"epoch": 2, "val_loss": "a"}']
)
def test_a_line_that_no_run_writes_counts_as_damaged(text: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_metrics(path, {"epoch": 1})
    with path.open("a") as file:
        file.write(f"{text}\n")
    append_metrics(path, {"epoch": 3})
    assert read_metrics(path) == [{"epoch": 1}]
    truncate_metrics(path, last_epoch=3)
    (warning,) = gap_warnings(path, last_epoch=3)
    assert "the lines of 2 of 3 finished epochs are missing (2, 3)" in warning


def test_a_run_without_metrics_starts_with_none(tmp_path: Path) -> None:
    truncate_metrics(tmp_path / "metrics.jsonl", last_epoch=0)
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_the_compilation_of_each_process_counts_once() -> None:
    sums = EpochSums().with_first_step(FirstStep(30.0, 2.0, False)).with_times(0.5, 10.0)
    resumed = EpochSums.from_json(json.loads(json.dumps(sums.to_json())))
    assert resumed == sums
    resumed = resumed.with_first_step(FirstStep(3.0, 1.0, True)).with_times(0.25, 20.0)
    assert (resumed.compile_s, resumed.first_step_s, resumed.train_s) == (33.0, 3.0, 30.0)


def test_the_sums_of_a_checkpoint_of_version_0_2_0_can_be_read() -> None:
    old = {"steps": 3, "loss_sum": 9.0, "last_loss": 2.5, "correct": 3.0, "skipped": 0, "rate": 0.1}
    old |= {"data_wait_s": 0.5, "train_s": 6.0}
    assert EpochSums.from_json(old) == EpochSums(3, 9.0, 2.5, 3.0, 0, 0.1, 0.5, 6.0, compile_s=0.0, first_step_s=0.0)


@pytest.mark.parametrize(("loss", "stored"), [(0.75, 0.75), (float("nan"), None), (float("inf"), None)])
def test_a_loss_that_is_not_finite_is_null(loss: float, stored: float | None) -> None:
    accuracy = Accuracy(4, 1, 3, loss)
    line = metrics_line(EpochReport(1, 4, 4, 2.0, 1.9, 0.25, 1e-3, 0, 10.0, 0.1, 1.0, 0.0, accuracy, accuracy))
    assert (line["val_loss"], line["ema_val_loss"]) == (stored, stored)
    json.dumps(line, allow_nan=False)
