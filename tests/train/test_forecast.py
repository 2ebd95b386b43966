"""What a dry run says of a run on records: counts as the run has them, times as a machine's speed gives them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.records.folds import folds_of
from convnext_imagenet.records.reader import Records
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.forecast import add_times, forecast_lines, forecast_run
from convnext_imagenet.train.suggest.choose import Speed

from ..json_page import check_object


def test_counts_are_those_of_the_run_and_checkpoints_take_what_was_said(
    finished_run: Path, records_root: Path, tiny: tuple[str, ...]
) -> None:
    found = forecast_run(load_config("demo", tiny), records_root, 1)
    assert (found.train_rows, found.val_rows, found.epochs, found.steps) == (34, 7, 4, 16)
    assert (found.evaluations, found.micro_batches) == (2, 2)
    units = {path.name.split(".")[0]: 0 for path in (finished_run / "checkpoints").glob("*.safetensors")}
    for path in (finished_run / "checkpoints").glob("*.safetensors"):
        units[path.name.split(".")[0]] += path.stat().st_size
    assert max(units.values()) == pytest.approx(found.checkpoint_bytes, rel=0.35), (
        "cards and names of tensors are extra"
    )
    assert sum(units.values()) <= 1.35 * found.disk_bytes
    assert found.disk_bytes == found.checkpoint_bytes * 4, "no fifth checkpoint is written in four epochs"


def test_times_follow_from_speed(records_root: Path, tiny: tuple[str, ...]) -> None:
    found = add_times(forecast_run(load_config("demo", tiny), records_root, 1), Speed(2.0, 10.0, 0.5, 0.1))
    assert found.seconds == pytest.approx(2 + 10 + 16 * 0.5 + 2 * 7 * 0.1)
    assert "then 500 ms a step" in forecast_lines(found)[-1]


@pytest.mark.slow
def test_the_command_measures_steps_on_the_cpu(records_root: Path, tiny: tuple[str, ...], tmp_path: Path) -> None:
    rows = int((folds_of(Records.open(records_root).split("train"), 3) != 1).sum())
    sets = [word for pair in (*tiny, "data.leave_out=1/3") for word in ("--set", pair)]
    report = tmp_path / "report.json"
    words = ["run", "demo", "--dry-run", "--device-target", "CPU", "--records", str(records_root), *sets]
    done = CliRunner().invoke(main, [*words, "--json", str(report)])
    assert done.exit_code == 0, done.output
    steps = 4 * (rows // 8)
    assert f"{rows} training rows: 4 epochs, {steps} steps, 2 evaluations of 7 val rows" in done.output
    assert "time on this machine: about" in done.output
    run = check_object(json.dumps(json.loads(report.read_text())["run"]), "convnext-train run --dry-run")
    assert run["seconds"] > run["start_s"] > 0
    assert run["step_s"] > 0
