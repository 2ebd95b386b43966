"""An audit that trains on folds, killed in the middle of it, ends with the tables of one that was not. Slow."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from convnext_imagenet.base.files import sha256_file
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.schema import Row

from ...records_of import finished_records
from .conftest import jpeg

CONFIG = """
[model]
variant = "convnext_atto"
depths = [1, 1, 1, 1]
dims = [8, 8, 16, 16]
drop_path_rate = 0.0
[data]
size_px = 32
global_batch_size = 8
eval_mode = "squash"
eval_batch_size = 16
[augment]
auto_augment = ""
erase_prob = 0.0
[mix]
prob = 0.0
[schedule]
warmup_epochs = 1
[train]
epochs = 4
"""
TABLES = ("pairs.parquet", "rows.parquet", "summary.json")


def _image(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return jpeg(Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC))


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command without --out, over records in which the last image of train is a near copy of the first."""
    images = [_image(seed) for seed in range(32)]
    with Image.open(io.BytesIO(images[0])) as first:
        images.append(jpeg(first, quality=60))
    rows = [Row(image, k % 2, k, f"train_{k}", 48, 48) for k, image in enumerate(images)]
    val = [Row(_image(100 + k), k % 2, k, f"val_{k}", 48, 48) for k in range(4)]
    classes = [ClassEntry(k, f"n0000000{k}", f"name {k}") for k in range(2)]
    root = finished_records(tmp_path / "records", {"train": rows, "val": val}, classes, {})
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)
    audit = Path(sys.executable).with_name("convnext-records")
    return [str(audit), "audit", str(root), "--folds", "2", "--config", str(config), "--workers", "1", "--out"]


def _kill_when(command: list[str], is_time: Path) -> None:
    """Run the command, kill it as soon as the file is there, and wait until none of its programs is left."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not is_time.exists():
        time.sleep(0.02)
    programs = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    assert programs, f"the audit was over before {is_time} was there"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(programs, timeout=20)
    assert not alive


@pytest.mark.slow
def test_an_audit_killed_among_its_trainings_ends_with_the_same_tables(tmp_path, command):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    for fold, name in ((1, "run/checkpoints/epoch-0001.json"), (1, "predictions/_plan.json"), (2, "run/plan.json")):
        _kill_when([*command, str(killed)], killed / "folds" / f"{fold}-of-2" / name)
        assert not (killed / "_SUCCESS").exists()
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    assert [sha256_file(killed / name) for name in TABLES] == [sha256_file(whole / name) for name in TABLES]
    (copies,) = (killed / "folds").glob("copies-*.csv")
    assert len(copies.read_text().splitlines()) == 2
    assert f"{copies}" in (killed / "folds" / "1-of-2" / "run" / "config.toml").read_text()
