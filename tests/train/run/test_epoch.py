"""metrics.jsonl: no epoch twice."""

from pathlib import Path

from convnext_imagenet.train.run.epoch import append_metrics, read_metrics, truncate_metrics


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


def test_a_run_without_metrics_starts_with_none(tmp_path: Path) -> None:
    truncate_metrics(tmp_path / "metrics.jsonl", last_epoch=0)
    assert read_metrics(tmp_path / "metrics.jsonl") == []
