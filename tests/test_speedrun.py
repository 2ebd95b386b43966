"""The speedrun counts whole runs: their best top-1 and all of their time, and five seeds."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parent.parent / "bench" / "speedrun" / "measure.py"


def _run(folder: Path, top1: float, is_finished: bool = True) -> Path:
    folder.mkdir()
    lines = [
        {"val_top1": top1 - 0.2, "ema_val_top1": None, "compile_s": 30.0, "train_s": 60.0, "eval_s": 30.0},
        {"val_top1": top1 - 0.1, "ema_val_top1": top1, "compile_s": 0.0, "train_s": 60.0, "eval_s": 60.0},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if is_finished:
        (folder / "_SUCCESS").write_text("{}")
    return folder


def test_five_seeds_with_the_goal_as_their_mean_count(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("speedrun_measure", PATH)
    assert spec is not None
    assert spec.loader is not None
    measure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measure)
    results = [measure.read_run(_run(tmp_path / str(seed), 0.64 + 0.01 * seed)) for seed in range(5)]
    assert results[0] == (0.64, 4.0)
    assert measure.summary(results) == "5 runs: top-1 66.00%, 4.0 minutes; counts"
    assert "does not count" in measure.summary(results[:4])
    assert "does not count" in measure.summary([(0.649, 1.0)] * 5)
    with pytest.raises(SystemExit, match="not finished"):
        measure.read_run(_run(tmp_path / "stopped", 0.7, is_finished=False))
