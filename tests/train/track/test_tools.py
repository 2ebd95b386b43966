"""The tracking tools themselves, each where it is installed: what they have stored is read back."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.train.cli import main
from convnext_imagenet.train.run.epoch import read_metrics
from convnext_imagenet.train.track import tools


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def _track(run: Path, tool: str, *more: str) -> Result:
    return CliRunner().invoke(main, ["track", str(run), "--to", tool, *more])


def _kill_after(run: Path, tool: str, epochs: int) -> None:
    """Track in a process of its own, and kill it once it has said that this many epochs are sent."""
    paths = os.pathsep.join(path for path in sys.path if path)
    script = f"import sys; sys.path += {paths!r}.split({os.pathsep!r})\n"
    script += "from convnext_imagenet.train.cli import main; main()"
    command = [sys.executable, "-c", script, "track", str(run), "--to", tool]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(epochs):
            assert process.stdout.readline().startswith("epoch ")
        process.send_signal(signal.SIGKILL)
    time.sleep(0.1)


@pytest.mark.slow
def test_tensorboard_reads_what_was_sent(run: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shutil.rmtree(run / "events", ignore_errors=True)
    _kill_after(run, "tensorboard", 2)
    assert _track(run, "tensorboard").exit_code == 0
    found = EventAccumulator(str(run / "tracked-tensorboard")).Reload()
    assert [(each.step, each.value) for each in found.Scalars("epoch/train_loss")] == [
        (line["step"], pytest.approx(line["train_loss"])) for line in read_metrics(run / "metrics.jsonl")
    ]
    assert b"| model.variant | convnext_atto |" in found.Tensors("config")[0].tensor_proto.string_val[0]
    (run / "events").mkdir()
    refused = _track(run, "tensorboard")
    assert (refused.exit_code, "writes its own TensorBoard events" in refused.stderr) == (1, True)


@pytest.mark.slow
def test_mlflow_has_every_number_once_after_a_kill(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    _kill_after(run, "mlflow", 2)
    result = _track(run, "mlflow")
    assert result.exit_code == 0, result.output
    client = mlflow.MlflowClient()
    (experiment,) = [found for found in client.search_experiments() if found.name == "convnext_imagenet"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["model.variant"] == "convnext_atto"
    for name in ("train_loss", "val_top1", "val_loss", "compile_s"):
        history = client.get_metric_history(found.info.run_id, name)
        lines = [line for line in read_metrics(run / "metrics.jsonl") if line[name] is not None]
        assert [(each.step, each.value) for each in history] == [(line["epoch"], line[name]) for line in lines]


@pytest.mark.slow
def test_wandb_has_one_offline_run_after_a_kill(run: Path) -> None:
    pytest.importorskip("wandb")
    _kill_after(run, "wandb", 2)
    result = _track(run, "wandb")
    assert result.exit_code == 0, result.output
    (offline,) = (run / "tracked-wandb" / "wandb").glob("offline-run-*")
    (stored,) = offline.glob("run-*.wandb")
    content = stored.read_bytes()
    for line in read_metrics(run / "metrics.jsonl"):
        assert content.count(repr(line["train_loss"]).encode()) in (1, 2), "once in the history, once in the summary"


@pytest.mark.parametrize("tool", ["mlflow", "wandb", "tensorboard"])
def test_a_tool_that_is_not_installed_is_one_line(tool: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, tool, None)
    result = _track(run, tool)
    assert result.exit_code == 1
    assert "install it with pip install 'convnext_imagenet[tracking]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (run / f"tracked-{tool}.json").exists()


def test_what_a_library_raises_is_one_line_and_the_machines_failure(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, *inputs: object) -> None:
        raise KeyError("no such table")

    monkeypatch.setitem(sys.modules, "tensorboard", sys)
    monkeypatch.setattr(tools.TensorBoardTool, "open", fail)
    shutil.rmtree(run / "events", ignore_errors=True)
    result = _track(run, "tensorboard")
    assert (result.exit_code, len(result.stderr.splitlines())) == (74, 1)
    assert result.stderr.startswith("Error: tensorboard: 'no such table'; run the same command again")
