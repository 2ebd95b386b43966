"""SIGKILL at any moment of a prediction: the same command goes on, and ends with the bytes of an undisturbed run."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from convnext_imagenet.base.files import read_json
from convnext_imagenet.base.protocol import read_receipt
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import ConvNeXtConfig, init_parameters
from convnext_imagenet.model.transform import EvalTransform
from convnext_imagenet.model.weights import save_weights

from .conftest import digests, jpeg

COMMAND = str(Path(sys.executable).with_name("convnext-serve"))
INPUTS, BATCH_ROWS, PART_ROWS = 60, 4, 8
ROWS = {f"part-{number:05d}.parquet": rows for number, rows in enumerate([4, 8, 8, 8, 8, 8, 8, 8])}
ROUNDS, MOST_SECONDS = 12, 140
POLL_SECONDS = 0.004


def tiny_weights(folder: Path) -> Path:
    """The weights of a tiny network, in a file of the folder."""
    config = ConvNeXtConfig("convnext_test", (1, 1, 1, 1), (8, 16, 24, 32), num_classes=7, head_init_scale=40.0)
    classes = tuple((f"n{index:08d}", f"name {index}") for index in range(7))
    weights = folder / "tiny.weights.safetensors"
    save_weights(weights, init_parameters(config, 3), ModelCard(config, classes, EvalTransform(size_px=32)))
    return weights


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """`predict` with a tiny network on 60 small images, three of which cannot be read."""
    root = tmp_path_factory.mktemp("predict")
    weights = tiny_weights(root)
    (root / "images").mkdir()
    for number in range(INPUTS):
        data = jpeg(number)
        (root / "images" / f"{number:02d}.jpg").write_bytes(data[: len(data) // 2] if number in (5, 30, 59) else data)
    options = ["--part-rows", PART_ROWS, "--batch-size", BATCH_ROWS, "--workers", 2, "--max-errors", 3]
    return ["predict", str(weights), str(root / "images"), *map(str, options)]


def _start(arguments: list[str], out: Path, log: Path) -> subprocess.Popen:
    with log.open("wb") as output:
        return subprocess.Popen(
            [COMMAND, *arguments, "--out", str(out)], stdout=output, stderr=output, start_new_session=True
        )


def _finish(arguments: list[str], out: Path, log: Path) -> None:
    assert _start(arguments, out, log).wait(timeout=120) == 0, log.read_text()


def _wait_for_parts(process: subprocess.Popen, out: Path, count: int) -> None:
    while process.poll() is None and len(list(out.glob("part-*"))) < count:
        time.sleep(POLL_SECONDS)


def _assert_published_means_whole(out: Path, whole: Path) -> None:
    """What any reader would find now: whole parts of the undisturbed run, and no other table however hidden."""
    for path in out.rglob("*"):
        assert path.suffix != ".parquet" or (path.parent == out and path.name in ROWS), path
    for path in out.glob("part-*"):
        assert path.read_bytes() == (whole / path.name).read_bytes()
        assert pq.read_table(path).num_rows == ROWS[path.name]
    if not (out / "_plan.json").exists():
        return
    plan_id = read_json(out / "_plan.json")["plan_id"]
    for receipt in out.glob("_part-*.json"):
        assert read_receipt(out, receipt.stem, plan_id, deep=True), receipt
    if (out / "_SUCCESS").exists():
        assert digests(out) == digests(whole)


@pytest.mark.faults
def test_killed_at_random_and_run_again(arguments, tmp_path):
    moments, log = random.Random(11), tmp_path / "log"
    whole, out = tmp_path / "whole", tmp_path / "out"
    _finish(arguments, tmp_path / "first", log)  # compiles the kernels, which takes longer than all else
    begun = time.monotonic()
    _finish(arguments, whole, log)
    typical_seconds = time.monotonic() - begun
    kills, in_the_middle = 0, 0
    for round_ in range(ROUNDS):
        if time.monotonic() - begun > MOST_SECONDS - 2 * typical_seconds:
            break
        process = _start(arguments, out, log)
        before = len(list(out.glob("part-*")))
        if round_ % 4 == 3:  # at any moment of the start, loading and compiling
            time.sleep(moments.uniform(0, typical_seconds))
        else:  # about when a part gets its name and its receipt
            _wait_for_parts(process, out, before + 1)
            time.sleep(moments.uniform(0, 0.06))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL), log.read_text()
        kills += process.returncode != 0
        in_the_middle += process.returncode != 0 and len(list(out.glob("part-*"))) > before
        _assert_published_means_whole(out, whole)
        if (out / "_SUCCESS").exists():
            out = tmp_path / f"out-{round_}"
    assert kills >= 4, "too slow a machine to prove anything"
    assert in_the_middle >= 2
    _finish(arguments, out, log)
    assert digests(out) == digests(whole)
    assert pq.read_table(out)["sample_id"].to_pylist() == list(range(INPUTS))
    checked = subprocess.run([COMMAND, "verify", str(out)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert f"{INPUTS} rows" in checked.stdout
