"""Jobs of two ranks train, evaluate and predict as one process does, stop together and go on as another number."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .rank_jobs import SECONDS, Job, assert_close, needs_two_cores

pytestmark = [pytest.mark.slow, needs_two_cores]


def _serve(*words: object) -> str:
    script = Path(sys.executable).with_name("convnext-serve")
    command = [sys.executable, str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_ranks_train_as_one_does(finished_by_two: Path, finished_run: Path) -> None:
    assert_close(finished_by_two, finished_run)
    logs = finished_by_two / "logs"
    assert {path.name for path in logs.iterdir()} == {"rank-0.log", "rank-1.log", "scheduler.log"}
    assert all("epoch: 4 step: 4" in (logs / f"rank-{rank}.log").read_text() for rank in range(2))
    logged = (finished_by_two / "train.log").read_text()
    for line in ("Z epoch: 4 step: 4, loss is", "Z 2 ranks on CPU", "Z global batch 8 ="):
        assert logged.count(line) == 1, "by the first rank or the launcher only"


def test_a_stopped_job_leaves_with_75_and_goes_on_by_one_rank(
    start: Callable[..., Job], finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    code, said, _ = start(run, fault=("launcher SIGTERM", 6)).wait()
    assert code == 75, said
    assert (run / "last").read_text() in ("step-00000006\n", "step-00000007\n", "step-00000008\n")
    assert "run the same command again to resume from the saved checkpoint" in said
    code, said, _ = start(run, devices=1).wait()
    assert code == 0, said
    assert "resuming after epoch" in said
    assert_close(run, finished_run)


def test_two_ranks_evaluate_and_predict_as_one_does(
    finished_run: Path, records_root: Path, make_records: Any, tmp_path: Path
) -> None:
    """7 rows in batches of 3 and 10 files in parts of 4 divide by nothing."""
    _, make_rows = make_records
    images = tmp_path / "images"
    images.mkdir()
    for row in make_rows(10):
        (images / f"{row.key}.jpg").write_bytes(row.image)
    said = {}
    for devices in ("1", "2"):
        words = ["--batch-size", "3", "--workers", "1", "--devices", devices]
        said[devices] = _serve("eval", finished_run, "--records", records_root, *words)
        out = tmp_path / devices
        _serve("predict", finished_run, images, "--out", out, "--part-rows", "4", *words)
    assert said["1"] == said["2"]
    assert "/7, top-5 " in said["2"]
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / n).glob("*.*")} for n in ("1", "2"))
    assert {"part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "_manifest.json"} <= one.keys()
    assert one == two
