"""One RUN directory: what it holds, exact resume, and what is refused."""

import contextlib
import errno
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.protocol import is_finished, read_finished
from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.launch.ranks.rank import Rank
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.evaluate import evaluate
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import BatchParts
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.errors import ConfigError, TrainError
from convnext_imagenet.train.run import run as running
from convnext_imagenet.train.run.epoch import append_metrics, read_metrics
from convnext_imagenet.train.run.run import RunRequest, check_same_parts, train

# Runs the command line in a process of its own that sends itself a signal in the middle of an epoch.
SIGNAL_ITSELF = """
import os, sys
from convnext_imagenet.train import cli
from convnext_imagenet.train.progress import Screen

number, epoch, step = (int(value) for value in sys.argv[1:4])
on_step = Screen.on_step

def on_step_then_signal(self, report):
    on_step(self, report)
    if (report.epoch, report.step) == (epoch, step):
        os.kill(os.getpid(), number)

Screen.on_step = on_step_then_signal
cli.main(sys.argv[4:])
"""


def _train_until(
    place: tuple[signal.Signals, int, int],
    records: Path,
    run: Path,
    tiny: tuple[str, ...],
    *options: str,
    script: str = SIGNAL_ITSELF,
) -> Any:
    overrides = [word for override in tiny for word in ("--set", override)]
    command = [
        "run",
        "paper-tiny",
        "--records",
        str(records),
        "--out",
        str(run),
        "--workers",
        "1",
        *overrides,
        *options,
    ]
    numbers = [str(int(value)) for value in place]
    path = run.parent / "signal_itself.py"
    path.write_text(script)
    return subprocess.run([sys.executable, str(path), *numbers, *command], capture_output=True, text=True, check=False)


def _final_arrays(run: Path) -> dict[str, np.ndarray]:
    files = sorted((run / "checkpoints").glob("epoch-0004.*.safetensors"))
    assert len(files) == 3
    return {name: array for file in files for name, array in safetensors.numpy.load_file(file).items()}


def test_a_finished_run_holds_what_it_promises(finished_run: Path, config: Config) -> None:
    manifest = read_finished(finished_run, "run")
    assert (manifest["last"]["epoch"], manifest["last"]["step"]) == (4, 16)
    assert load_config(str(finished_run / "config.toml")) == config
    lines = read_metrics(finished_run / "metrics.jsonl")
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 4), (2, 8), (3, 12), (4, 16)]
    assert [line["val_rows"] for line in lines] == [None, None, 7, 7]
    assert lines[-1]["val_top1"] == lines[-1]["val_top1_correct"] / 7
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert {line["deterministic"] for line in lines} == {True}, "on the CPU"
    assert {"learning_rate", "images_per_s", "data_wait_s", "val_top5"} <= lines[0].keys()
    assert {line["train_is_mixed"] for line in lines} == {True}, "the recipe has mixup and cutmix"
    assert [line["compile_s"] > 0 for line in lines] == [True, False, False, False]
    for line in lines:
        assert line["images_per_s"] == pytest.approx(32 / line["train_s"], rel=0.05)
        assert line["first_step_s"] <= line["train_s"] + 0.001
    units = {path.name.split(".")[0] for path in (finished_run / "checkpoints").iterdir()}
    assert units == {"epoch-0003", "epoch-0004"}
    assert (finished_run / "last").read_text() == "epoch-0004\n"


def test_the_accuracy_of_the_saved_weights_is_the_one_reported(finished_run: Path, records_root: Path) -> None:
    checkpoint = load_checkpoint(finished_run)
    best = (finished_run / "best").read_text().strip()
    assert checkpoint.path.name == f"{best}.weights.safetensors"
    val = Records.open(records_root).split("val")
    accuracy = evaluate(checkpoint.classifier(), checkpoint.card.transform, val, batch_size=4, workers=1)
    reported = read_metrics(finished_run / "metrics.jsonl")[int(best[-4:]) - 1]
    assert (accuracy.rows, accuracy.top1_correct) == (reported["val_rows"], reported["val_top1_correct"])
    assert accuracy.loss == reported["val_loss"]


@pytest.mark.slow
def test_a_run_that_was_killed_and_stopped_ends_bit_identical(
    finished_run: Path, records_root: Path, config: Config, tiny: tuple[str, ...], tmp_path: Path, recorder: Any
) -> None:
    run = tmp_path / "run"
    killed = _train_until((signal.SIGKILL, 1, 3), records_root, run, tiny, "--save-steps", "2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (run / "last").read_text() == "step-00000002\n"
    append_metrics(run / "metrics.jsonl", {"epoch": 1})  # as if it had died between metrics and checkpoint

    stopped = _train_until((signal.SIGTERM, 2, 3), records_root, run, tiny)
    assert stopped.returncode == 75, stopped.stderr
    assert "resuming after epoch 0 of 4, step 2 of 16" in stopped.stdout
    assert "step loaded from the cache in" in stopped.stdout
    assert "run the same command again to resume from the saved checkpoint" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (run / "last").read_text() in ("step-00000007\n", "step-00000008\n")

    stopped = _train_until((signal.SIGUSR1, 3, 4), records_root, run, tiny)  # at the boundary, before the evaluation
    assert stopped.returncode == 75, stopped.stderr
    assert (run / "last").read_text() == "step-00000012\n"
    assert not is_finished(run)

    logged = [line.split(" ", 1)[1] for line in (run / "train.log").read_text().splitlines()]
    assert sum(line.startswith("resuming after epoch") for line in logged) == 2
    assert sum(line.startswith("Error: stopped by a signal; run the same command again") for line in logged) == 2
    assert sum(line.startswith("epoch: 1 step: 4, loss is") for line in logged) == 1, "not lost, not repeated"

    summary = train(config, RunRequest(records_root, run, 1), recorder)
    assert (recorder.done.epoch, recorder.done.step) == (2, 12)
    assert [(report.epoch, report.step) for report in recorder.steps[:2]] == [(4, 1), (4, 2)]
    assert (summary.last.epoch, summary.was_finished) == (4, False)
    expected, found = _final_arrays(finished_run), _final_arrays(run)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert _timeless(run) == _timeless(finished_run)


# Sends itself a signal while the step compiles, which takes seconds without returning to Python.
SIGNAL_WHILE_COMPILING = """
import os, sys, threading
from convnext_imagenet.train import cli
from convnext_imagenet.train.step.learner import Learner

compile_step = Learner.compile

def compile_and_signal(self, batches):
    threading.Timer(0.3, os.kill, (os.getpid(), int(sys.argv[1]))).start()
    compile_step(self, batches)
    print("compiled")

Learner.compile = compile_and_signal
cli.main(sys.argv[4:])
"""


@pytest.mark.slow
def test_a_stop_signal_is_answered_while_the_step_compiles(
    records_root: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    run, place = tmp_path / "run", (signal.SIGTERM, 0, 0)
    options = ["--set", "train.epochs=1"]
    stopped = _train_until(place, records_root, run, tiny, *options, script=SIGNAL_WHILE_COMPILING)
    assert stopped.returncode == 75, stopped.stderr
    assert "Error: stopped by a signal; run the same command again to resume" in stopped.stderr
    assert "compiled" not in stopped.stdout.splitlines()
    assert "Error: stopped by a signal" in (run / "train.log").read_text()
    resumed = _train_until((signal.SIGKILL, 99, 1), records_root, run, tiny, *options)
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_dies_at_random_steps_ends_bit_identical(
    finished_run: Path, records_root: Path, tiny: tuple[str, ...], tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    run, step = tmp_path / "run", 0
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    while (step := int(rng.integers(step + 2, step + 8))) < 16:
        number = signals[int(rng.integers(4))]
        place = (number, (step - 1) // 4 + 1, (step - 1) % 4 + 1)
        every = str(int(rng.integers(1, 6)))
        stopped = _train_until(place, records_root, run, tiny, "--save-steps", every)
        assert stopped.returncode == (-number if number == signal.SIGKILL else 75), stopped.stderr
    never = _train_until((signal.SIGKILL, 99, 1), records_root, run, tiny)
    assert never.returncode == 0, never.stderr
    expected, found = _final_arrays(finished_run), _final_arrays(run)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert _timeless(run) == _timeless(finished_run)


@pytest.mark.slow
def test_a_disk_that_is_full_while_saving_leaves_the_checkpoint_before(
    finished_run: Path, records_root: Path, config: Config, recorder: Any, small_disk: Path, fill: Any
) -> None:
    run = small_disk / "run"

    def fill_after_the_second(report: Any) -> None:
        recorder.epochs.append(report)
        if report.epoch == 2:
            fill(small_disk)

    recorder.on_epoch = fill_after_the_second
    with pytest.raises((OSError, FailedError)) as full:
        train(config, RunRequest(records_root, run, 1), recorder)
    assert str(run) in str(full.value)
    assert getattr(full.value, "errno", None) == errno.ENOSPC or "No space left" in str(full.value)
    assert (run / "last").read_text() == "epoch-0002\n"
    (small_disk / "filler").unlink()
    recorder.on_epoch = lambda report: None
    train(config, RunRequest(records_root, run, 1), recorder)
    assert recorder.done.epoch == 2
    expected, found = _final_arrays(finished_run), _final_arrays(run)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def _timeless(run: Path) -> list[dict[str, Any]]:
    lines = read_metrics(run / "metrics.jsonl")
    return [{name: line[name] for name in line if not name.endswith("_s")} for line in lines]


def test_a_finished_run_is_left_alone(finished_run: Path, records_root: Path, config: Config, recorder: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.name != ".lock"}
    summary = train(config, RunRequest(records_root, finished_run, 1), recorder)
    assert summary.was_finished
    assert recorder.done is None
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("pointer", ["best", "last"])
def test_a_run_whose_pointer_is_missing_is_refused(
    pointer: str, finished_run: Path, records_root: Path, config: Config, recorder: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / pointer).unlink()
    with pytest.raises(TrainError, match=f"{pointer}: is missing; write the name of"):
        train(config, RunRequest(records_root, run, workers=1), recorder)


def test_another_configuration_is_refused_with_the_differing_keys(
    finished_run: Path, records_root: Path, tiny: tuple[str, ...], recorder: Any
) -> None:
    other = load_config("paper-tiny", [*tiny, "train.seed=5", "augment.flip_prob=0.25"])
    with pytest.raises(ArtefactError, match=r"\(differs in: augment\.flip_prob, train\.seed\)"):
        train(other, RunRequest(records_root, finished_run, 1), recorder)


def test_other_records_are_refused(
    finished_run: Path, config: Config, make_records: Any, tmp_path: Path, recorder: Any
) -> None:
    build_records, make_rows = make_records
    other = build_records(tmp_path / "records", make_rows(20), make_rows(7))
    with pytest.raises(ArtefactError, match=r"differs in: records \(SHA-256 of manifest\.json\)\)"):
        train(config, RunRequest(other, finished_run, 1), recorder)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.num_classes=1000", "the records hold 3 classes"),
        ("model.num_classes=1000 data.global_batch_size=64", "2 faults in the configuration:"),
        ("model.variant=convnext_titan", "did you mean convnext_"),
        ("data.global_batch_size=64", "must not exceed the 34 training rows; pass --set data.global_batch_size=4"),
        (
            "data.device_batch_size=3",
            "contradicts data.device_batch_size = 3, which gives 4 on 1 device;",
        ),
    ],
)
def test_what_does_not_fit_the_records_is_refused_before_anything_is_written(
    override: str, words: str, records_root: Path, tiny: tuple[str, ...], tmp_path: Path, recorder: Any
) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError) as refused:
        train(load_config("paper-tiny", [*tiny, *override.split()]), RunRequest(records_root, run, 1), recorder)
    assert words in str(refused.value)
    assert not run.exists()


@pytest.mark.parametrize(("others", "is_same"), [(BatchParts(2, 2, 4), True), (BatchParts(2, 4, 2), False)])
def test_ranks_that_would_divide_a_batch_otherwise_are_refused(others: BatchParts, is_same: bool) -> None:
    sent: list[np.ndarray] = []
    with contextlib.suppress(ConfigError):
        check_same_parts(others, Ranks(Rank(1, 2), all_reduce=lambda numbers: sent.append(numbers) or numbers))
    first = Ranks(Rank(0, 2), all_reduce=lambda numbers: numbers + sent[0])
    refusal = pytest.raises(ConfigError, match=r"2 devices x 2 micro-batches x 4 rows: not on every rank; .* --set on")
    with contextlib.nullcontext() if is_same else refusal:
        check_same_parts(BatchParts(2, 2, 4), first)


def test_a_run_compares_the_division_before_anything_is_written(
    records_root: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    def refuse(parts: BatchParts, ranks: Ranks) -> None:
        raise ConfigError(f"{parts}: not on every rank")

    monkeypatch.setattr(running, "check_same_parts", refuse)
    with pytest.raises(ConfigError, match="2 micro-batches x 4 rows: not on every rank"):
        train(config, RunRequest(records_root, tmp_path / "run", 1), recorder)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "step", "said"),
    [
        (["schedule.base_lr=1e6"], None, ["not finite, computed in float32; ", "schedule.base_lr below 1e+06"]),
        (
            ["precision.level=O3", "precision.loss_scale=static", "precision.scale_init=1e30"],
            4,
            ["each of the 4 steps of the epoch overflowed", "precision.scale_init below 1e+30"],
        ),
    ],
)
def test_a_run_that_diverges_fails_and_publishes_nothing_that_is_not_finite(
    overrides: list[str],
    step: int | None,
    said: list[str],
    records_root: Path,
    tiny: tuple[str, ...],
    tmp_path: Path,
    recorder: Any,
) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainError) as diverged:
        train(load_config("paper-tiny", [*tiny, *overrides]), RunRequest(records_root, run, 1), recorder)
    assert diverged.value.exit_code == 1
    for text in said:
        assert text in str(diverged.value)
    details = json.loads((run / "divergence.json").read_text())
    assert step in (None, details["step"])
    assert not is_finished(run)
    for path in run.glob("checkpoints/*.safetensors"):
        assert all(np.isfinite(array).all() for array in safetensors.numpy.load_file(path).values())


@pytest.mark.slow
def test_a_run_that_goes_back_ends_bit_identical_when_it_was_killed(
    records_root: Path, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    options = ["--set", "schedule.base_lr=1000", "--save-steps", "3", "--on-divergence", "rollback:99"]
    expected, found = tmp_path / "undisturbed", tmp_path / "killed"
    done = _train_until((signal.SIGKILL, 99, 1), records_root, expected, tiny, *options)
    assert done.returncode == 0, done.stderr
    for place in ((1, 4), (2, 3), (3, 2), (99, 1)):
        done = _train_until((signal.SIGKILL, *place), records_root, found, tiny, *options)
    assert done.returncode == 0, done.stderr
    assert _timeless(found) == _timeless(expected)
    assert sum(len(line["rolled_back"]) for line in _timeless(expected)) > 1
    for path in (expected / "checkpoints").iterdir():
        assert (found / "checkpoints" / path.name).read_bytes() == path.read_bytes(), path.name
