"""Commands that look at files answer at once: they never import MindSpore, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from .json_page import check_object, check_progress

PROGRAM = """
import sys
sys.modules["mindspore"] = None  # importing it now raises ImportError
from importlib import import_module
import_module(sys.argv.pop(1)).main()
"""
WITH_MINDSPORE = PROGRAM.replace('["mindspore"]', '["nothing"]')


def _run(
    module: str, *words: object, program: str = PROGRAM, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, f"convnext_imagenet.{module}", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ten")
    for number in range(10):
        folder = root / "raw" / ("val" if number > 7 else "train") / ("ab"[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24), (number * 20, 0, 0)).save(folder / f"{number}.jpg")
    words = ("build", root / "raw", "--out", root / "records", "--unverified", "--classes", "found", "--json")
    done = _run("ingest.cli", *words, "--progress", "json", program=WITH_MINDSPORE)
    assert done.returncode == 0, done.stderr
    built = check_object(done.stdout, "convnext-ingest build")
    assert built["rows"] == {"train": 8, "val": 2}
    assert check_progress(done.stderr)["ingest"] == 10
    (root / "built.json").write_text(done.stdout)
    return root / "records"


def test_a_dry_run_writes_nothing_and_counts_what_a_build_then_stores(records: Path, tmp_path: Path) -> None:
    raw = records.parent / "raw"
    words = ("build", raw, "--out", tmp_path / "out", "--unverified", "--classes", "found", "--dry-run", "--json")
    done = _run("ingest.cli", *words, program=WITH_MINDSPORE)
    assert done.returncode == 0, done.stderr
    value = check_object(done.stdout, "convnext-ingest build --dry-run")
    assert (value["images"], value["sampled"], value["not_stored"]) == ({"train": 8, "val": 2}, 10, [])
    assert value["stored_bytes"] == sum(path.stat().st_size for path in raw.rglob("*.jpg"))
    built = json.loads((records.parent / "built.json").read_text())
    assert (value["images"], value["shards"]) == (built["rows"], built["shards"])
    assert value["bytes"] == pytest.approx(built["bytes"], rel=0.1)
    assert value["seconds"] > value["start_s"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show",), "train: 8 rows"),
        (("show", "--classes"), "a"),
        (("peek", "--row", "3", "--image", "peeked.jpg"), "jpeg, 32 x 24 px"),
        (("gallery", "--out", "sheet.png"), "8 images of 2 classes of train"),
        (("export", "--format", "parquet", "--out", "exported"), "8 train, 2 val images as parquet"),
    ],
    ids=lambda words: words[0],
)
def test_commands_that_look_at_records(words: tuple[str, ...], said: str, records: Path, tmp_path: Path) -> None:
    done = _run("records.cli", words[0], records, *words[1:], cwd=tmp_path)
    assert (done.returncode, said in done.stdout) == (0, True), done.stdout + done.stderr


def test_diff(records: Path) -> None:
    done = _run("records.cli", "diff", records, records)
    assert done.returncode == 0, done.stderr


def test_plot(tmp_path: Path) -> None:
    line = {"epoch": 1, "step": 3, "train_loss": 2.0, "val_top1": 0.1, "val_loss": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    done = _run("train.cli", "plot", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "curves.png").stat().st_size


def test_inspecting_weights_a_run_and_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run" / "checkpoints" / "epoch-0001.weights.safetensors"
    file.parent.mkdir(parents=True)
    card = {"config": {"variant": "v"}, "transform": {}, "classes": [["n0", "first"]], "provenance": {}}
    stated = {"version": 1, "sha256": "0", "card": json.dumps(card)}
    header = json.dumps({"__metadata__": {"convnext_imagenet.weights": json.dumps(stated)}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "run" / "plan.json").write_text("{}")
    (tmp_path / "run" / "best").write_text("epoch-0001\n")
    for path in (file, tmp_path / "run"):
        done = _run("serve.cli", "weights", "inspect", path)
        assert (done.returncode, "1 class: n0 (first)" in done.stdout) == (0, True), done.stderr
    done = _run("serve.cli", "weights", "inspect", tmp_path / "absent")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_the_guard_notices_a_command_that_needs_it(records: Path) -> None:
    assert "'mindspore' is not a package" in _run("records.cli", "verify", records).stderr


def test_verify_prints_its_object(records: Path) -> None:
    done = _run("records.cli", "verify", records, "--json", "--progress", "json", program=WITH_MINDSPORE)
    assert check_progress(done.stderr) == {"verify": 10}
    value = check_object(done.stdout, "convnext-records verify")
    assert value == {"records": str(records), "rows": 10, "bytes": None, "problems": []}
