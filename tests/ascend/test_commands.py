"""Whole commands on a simulated Ascend: each must end as on a device, with everything that it promises to write.

All results are zeros, so nothing here looks at a number.
"""

import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import Row

from ..records_of import finished_records

SECONDS = 180
STOPPED = 75
TINY = (
    "model.depths=[1,1,1,1]",
    "model.dims=[8,16,24,32]",
    "data.global_batch_size=8",
    "data.eval_batch_size=4",
    "precision.level=O1",
    "precision.dtype=bfloat16",
    "ema.decay=0.9",
    "train.epochs=3",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with RECORDS of two classes, and two loose images."""
    root = tmp_path_factory.mktemp("ascend")
    classes = [ClassEntry(index, f"n0000000{index}", f"class {index}") for index in range(2)]
    splits = {"train": [_row(index) for index in range(24)], "val": [_row(index) for index in range(6)]}
    finished_records(root / "records", splits, classes, {"test": "ascend"})
    (root / "images").mkdir()
    for index in range(2):
        (root / "images" / f"{index}.jpg").write_bytes(_row(index).image)
    return root


@pytest.fixture(scope="module")
def run(simulated: Mapping[str, str], folder: Path) -> Path:
    """A RUN that was stopped by SIGTERM after its first checkpoint and then resumed to its end."""
    out = folder / "run"
    command = _words("convnext-train", *_train(folder, out))
    process = subprocess.Popen(command, env=simulated, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + SECONDS
    while not list(out.glob("checkpoints/*.weights.safetensors")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=SECONDS)[0].decode(errors="replace")
    assert process.returncode == STOPPED, output
    assert not (out / "_SUCCESS").exists()
    assert "resuming after epoch 1 of 3" in _run(simulated, "convnext-train", *_train(folder, out))
    return out


def test_a_run_resumes_after_a_stop_and_ends_with_its_manifest(run: Path) -> None:
    assert (run / "_SUCCESS").exists()
    epochs = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]


def test_evaluation_writes_its_report(simulated: Mapping[str, str], folder: Path, run: Path) -> None:
    report = folder / "report"
    words = "eval", run, "--records", folder / "records", "--report", report
    _run(simulated, "convnext-serve", *words)
    assert (report / "report.html").exists()


def test_predictions_are_finished(simulated: Mapping[str, str], folder: Path, run: Path) -> None:
    out = folder / "predictions"
    _run(simulated, "convnext-serve", "predict", run, folder / "images", "--out", out, "--features")
    assert (out / "_SUCCESS").exists()


def test_one_image_is_named(simulated: Mapping[str, str], folder: Path, run: Path) -> None:
    image = next((folder / "images").iterdir())
    _run(simulated, "convnext-serve", "infer", run, image, "--out", folder / "picture.jpg")
    assert (folder / "picture.jpg").exists()


def test_weights_are_exported(simulated: Mapping[str, str], folder: Path, run: Path) -> None:
    _run(simulated, "convnext-serve", "weights", "export", run, "--format", "mindir", "--out", folder / "run.mindir")
    assert (folder / "run.mindir").exists()


def test_a_run_that_fine_tunes_frozen_stages_ends(simulated: Mapping[str, str], folder: Path, run: Path) -> None:
    out = folder / "tuned"
    words = (
        *_train(folder, out),
        "--init-from",
        run,
        "--set",
        "model.frozen_stages=2",
        "--set",
        "schedule.warmup_epochs=0",
    )
    _run(simulated, "convnext-train", *words)
    assert (out / "_SUCCESS").exists()


def test_the_doctor_reaches_the_training_step(simulated: Mapping[str, str]) -> None:
    """Its loss is 0 in a simulation, which the doctor must not accept."""
    done = _start(simulated, "convnext-train", "doctor", "--json", "--device-target", "Ascend")
    levels = {line["what"]: line["level"] for line in map(json.loads, done.stdout.splitlines())}
    assert (levels["device target"], levels["all-reduce"], levels["training step"]) == ("ok", "ok", "error")
    assert done.returncode == 1


def _row(index: int) -> Row:
    pixels = np.random.default_rng(index).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return Row(buffer.getvalue(), index % 2, sample_id=index, key=f"n0000000{index % 2}_{index}", height=40, width=44)


def _train(folder: Path, out: Path) -> tuple[str | Path, ...]:
    sets = (word for value in TINY for word in ("--set", value))
    return "run", "demo", "--records", folder / "records", "--out", out, "--device-target", "Ascend", *sets


def _words(command: str, *words: str | Path) -> list[str]:
    return [str(Path(sys.executable).with_name(command)), *map(str, words)]


def _start(environment: Mapping[str, str], command: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:  # the simulation writes files into the working directory
        return subprocess.run(
            _words(command, *words),
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            errors="replace",
        )


def _run(environment: Mapping[str, str], command: str, *words: str | Path) -> str:
    """Return what the command printed; it must end with 0. The target is Ascend unless the words name one."""
    target = () if "--device-target" in words else ("--device-target", "Ascend")
    done = _start(environment, command, *words, *target)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
