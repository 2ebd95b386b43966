"""The commands as they are typed, on a real (tiny) network: outputs, exit codes, one-line errors."""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from convnext_imagenet.model.network import Classifier
from convnext_imagenet.model.weights import assign_parameters, build_network
from convnext_imagenet.records.reader import Records
from convnext_imagenet.serve.batching import batches, padded_logits
from convnext_imagenet.serve.checkpoint import load_checkpoint
from convnext_imagenet.serve.cli import main
from convnext_imagenet.serve.evaluate import evaluate
from convnext_imagenet.serve.inputs.files import list_folder
from convnext_imagenet.serve.samples import read_sample
from convnext_imagenet.serve.scoring import probabilities

from .conftest import TRANSFORM, build_records, picture, write_checkpoint

IMAGES = [picture(seed) for seed in range(11)]


def _call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def val_folder(tmp_path):
    """The images of the records, as files whose names keep their order."""
    root = tmp_path / "val"
    root.mkdir()
    for index, image in enumerate(IMAGES):
        (root / f"val_{index:02d}.jpg").write_bytes(image)
    return root


@pytest.mark.parametrize("options", ["", "--flip --size 48", "--resize squash", "--crop-pct 0.5"])
def test_eval_and_predict_agree_on_the_same_images(checkpoint_file, val_folder, tmp_path, options, monkeypatch):
    how = ["--batch-size", 4, *options.split()]
    predicted = _call("predict", checkpoint_file, val_folder, "--out", tmp_path / "out", *how)
    assert predicted.exit_code == 0, predicted.output
    best = pq.read_table(tmp_path / "out")["top1_index"].to_pylist()
    assert len(set(best)) > 1, "a network that always says the same proves nothing"
    labels = [index if place % 3 else (index + 1) % 7 for place, index in enumerate(best)]  # 4 of 11 wrong
    build_records(tmp_path / "records", IMAGES, labels)
    evaluated = _call("eval", checkpoint_file, "--records", tmp_path / "records", *how)
    assert evaluated.exit_code == 0, evaluated.output
    if not options:
        monkeypatch.setenv("CONVNEXT_RECORDS_CACHE", str(tmp_path / "copies"))
        of_uri = _call("eval", checkpoint_file, "--records", f"file://{tmp_path}/records", *how)
        assert of_uri.stdout == evaluated.stdout
        assert "fetching" in of_uri.stderr
        assert "file://" not in of_uri.stderr.splitlines()[-2]  # no address, which may hold secrets
    numbers, counts, loss = evaluated.stdout.splitlines()
    assert set(ast.literal_eval(numbers)) == {"Top1-Acc", "Top5-Acc"}
    assert ast.literal_eval(numbers)["Top1-Acc"] == 7 / 11
    assert counts.startswith("top-1 7/11, top-5 ")
    assert counts.endswith("/11, every row of val counted once")
    assert re.fullmatch(r"loss \d+\.\d{6} \(mean cross entropy with the true label, in nats\)", loss)
    assert "Next: convnext-serve predict" in evaluated.stderr


def test_predictions_are_the_networks_answers_for_any_batch_size(checkpoint_file, val_folder):
    """Another batch size moves a score by rounding alone: 1e-5 is several times what was measured."""
    checkpoint = load_checkpoint(checkpoint_file)
    classifier = checkpoint.classifier()
    inputs = list_folder(val_folder)
    pixels = [read_sample(item, 0, TRANSFORM).pixels for item in inputs.items(range(inputs.count))]
    scores = {
        size: probabilities(np.concatenate([padded_logits(classifier, batch, size) for batch in batches(pixels, size)]))
        for size in (3, 8)
    }
    np.testing.assert_allclose(scores[3], scores[8], atol=1e-5)
    assert (scores[3].argmax(axis=1) == scores[8].argmax(axis=1)).all()


def test_evaluate_sees_the_weights_that_a_live_network_has_now(checkpoint_file, tmp_path):
    split = Records.open(build_records(tmp_path / "records", IMAGES, [0] * 11)).split("val")
    checkpoint = load_checkpoint(checkpoint_file)
    classifier = Classifier(build_network(checkpoint.card, checkpoint.arrays), TRANSFORM).set_train(False)
    evaluate(classifier, TRANSFORM, split, 4, 2)
    for index, correct in ((0, 11), (1, 0)):
        bias = np.where(np.arange(7) == index, 1e6, 0).astype(np.float32)
        assign_parameters(classifier.network, {**checkpoint.arrays, "head.bias": bias})
        assert evaluate(classifier, TRANSFORM, split, 4, 2).top1_correct == correct


def test_infer_prints_names_and_draws_pictures(checkpoint_file, val_folder, tmp_path):
    files = [val_folder / "val_00.jpg", val_folder / "val_01.jpg"]
    result = _call("infer", checkpoint_file, *files, "--out", tmp_path / "drawn", "--topk", 3)
    assert result.exit_code == 0, result.output
    first, *rest = result.stdout.splitlines()
    ((index, name),) = ast.literal_eval(first).items()
    assert name == f"name {index}"
    assert len(rest) == 2 * (1 + 1 + 3 + 1) - 1
    for file in files:
        with Image.open(tmp_path / "drawn" / file.name) as image:
            assert image.width == 384


def test_infer_answers_the_readable_files_and_reports_the_others(checkpoint_file, folder):
    result = _call("infer", checkpoint_file, folder / "cut.jpg", folder / "a.jpg", folder / "page.jpg")
    assert result.exit_code == 1
    assert f"{folder / 'page.jpg'}: unsupported: an HTML page" in result.stderr
    assert "a.jpg" in result.stdout
    assert f"{folder / 'cut.jpg'}: decode_error: truncated" in result.stderr
    assert "Error: 2 of 3 files could not be read" in result.stderr


def test_error_rows_above_the_allowed_number_end_with_3_and_are_written(checkpoint_file, folder, tmp_path):
    command = ("predict", checkpoint_file, folder, "--out", tmp_path / "out", "--batch-size", 11)
    result = _call(*command)
    assert result.exit_code == 3
    assert "11 inputs, 11 rows (3 decode_error, 6 ok, 1 read_error, 1 unsupported)" in result.stdout
    assert "5 error rows" not in result.stdout
    assert "the first is cut.jpg (truncated: " in result.stderr
    assert "--max-errors 5" in result.stderr
    assert (tmp_path / "out" / "_SUCCESS").is_file()
    again = _call(*command, "--max-errors", 5)
    assert again.exit_code == 0
    assert "1 of 1 parts are there already" in again.stderr


def _paths(tmp_path, checkpoint_file, val_folder):
    records = build_records(tmp_path / "records", IMAGES, [0] * 11)
    cut = tmp_path / "cut.weights.safetensors"
    cut.write_bytes(checkpoint_file.read_bytes()[:5000])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}")
    (tmp_path / "none").mkdir()
    broken = shutil.copytree(records, tmp_path / "broken")
    next((broken / "val").glob("*.mindrecord")).write_bytes(b"")
    shutil.copytree(records, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "_SUCCESS").unlink()
    return {
        "GOOD": checkpoint_file,
        "CUT": cut,
        "SIX": write_checkpoint(tmp_path / "six.weights.safetensors", classes=6),
        "RUN": tmp_path / "run",
        "RECORDS": records,
        "BROKEN": broken,
        "UNFINISHED": tmp_path / "unfinished",
        "IMAGES": val_folder,
        "EMPTY": tmp_path / "none",
        "MISSING": tmp_path / "missing",
        "OUT": tmp_path / "out",
        "PICTURE": tmp_path / "p.jpg",
    }


BAD = [
    ("eval MISSING --records RECORDS", 1, "no such file or directory"),
    ("eval CUT --records RECORDS", 1, "truncated, damaged"),
    ("eval MISSING --records file:///no/records", 1, "missing: no such file or directory"),
    ("eval CUT --records file:///no/records", 1, "truncated, or not a safetensors file"),
    ("eval RUN --records RECORDS", 1, "no epoch has finished"),
    ("eval SIX --records RECORDS --report OUT", 1, "leave out --report, and the classes are matched"),
    ("eval GOOD --records MISSING", 1, "no such directory"),
    ("eval GOOD --records BROKEN", 1, "0 bytes, expected"),
    ("eval GOOD --records UNFINISHED", 1, "convnext-ingest build"),
    ("eval GOOD --records RECORDS --split test", 1, "splits with rows: val"),
    ("eval GOOD", 2, "--records"),
    ("predict MISSING IMAGES --out OUT", 1, "no such file or directory"),
    ("predict CUT IMAGES --out OUT", 1, "truncated, damaged"),
    ("predict GOOD MISSING --out OUT", 1, "no such file or directory"),
    ("predict GOOD EMPTY --out OUT", 1, "no files"),
    ("predict GOOD IMAGES --out RECORDS", 1, "holds records; choose a new"),
    ("predict GOOD IMAGES --out GOOD", 1, "a file is in the way"),
    ("predict GOOD IMAGES --out OUT --topk 0", 2, "--topk"),
    ("predict GOOD IMAGES --out OUT --device-target TPU", 2, "TPU"),
    ("predict GOOD IMAGES --out OUT --device-target Ascend", 1, "or --device-target CPU"),
    ("infer GOOD", 2, "FILE"),
    ("infer GOOD MISSING", 1, "read_error"),
    ("infer GOOD MISSING IMAGES --out PICTURE", 1, "one picture cannot show"),
]


def test_bad_input_ends_with_one_line_and_nothing_written(checkpoint_file, val_folder, tmp_path):
    paths = _paths(tmp_path, checkpoint_file, val_folder)
    for command, code, text in BAD:
        result = _call(*(paths.get(word, word) for word in command.split()))
        assert result.exit_code == code, f"{command}: {result.output} {result.exception}"
        assert text in result.stderr, f"{command}: {result.stderr}"
        if code == 1:
            assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1, result.stderr
        assert not (tmp_path / "out").exists(), f"{command} left something under its final name"
        assert not (tmp_path / "p.jpg").exists()


def _start(*arguments):
    script = Path(sys.executable).with_name("convnext-serve")
    return subprocess.Popen(
        [script, *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )


def _wait_for_parts(process, out, parts):
    deadline = time.monotonic() + 120
    while len(list(out.glob("_part-*.json"))) < parts:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_ctrl_c_and_sigkill_then_the_same_command_ends_with_the_same_bytes(checkpoint_file, tmp_path):
    root = tmp_path / "many"
    root.mkdir()
    for index in range(120):
        (root / f"{index:03d}.jpg").write_bytes(IMAGES[index % 11])
    (root / "007.jpg").write_bytes(b"not a picture")
    options = ("--part-rows", 4, "--batch-size", 4, "--workers", 2, "--max-errors", 1)
    out, whole = tmp_path / "out", tmp_path / "whole"
    first = _start("predict", checkpoint_file, root, "--out", out, *options)
    _wait_for_parts(first, out, 2)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 75, errors
    assert f"run the same command again to resume in {out}" in errors
    second = _start("predict", checkpoint_file, root, "--out", out, *options)
    _wait_for_parts(second, out, len(list(out.glob("_part-*.json"))) + 2)
    second.kill()
    second.communicate(timeout=60)
    assert second.returncode == -signal.SIGKILL
    for target in (out, whole):
        result = _call("predict", checkpoint_file, root, "--out", target, *options)
        assert result.exit_code == 0, result.output
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in names)
    assert pq.read_table(out)["sample_id"].to_pylist() == list(range(120))


@pytest.mark.parametrize(
    "words",
    [["--devices", "2"], ["--nodes", "2", "--rendezvous", "a"], ["--restarts", "1"], ["--heartbeat-timeout", "9"]],
)
def test_ranks_and_a_cluster_together_are_wrong_usage(checkpoint_file, folder, tmp_path, words):
    arguments = ["predict", str(checkpoint_file), str(folder), "--out", str(tmp_path / "out"), "--engine", "ray"]
    result = CliRunner().invoke(main, [*arguments, *words])
    assert result.exit_code == 2
    assert f"{words[0]}: --engine ray uses the devices of the cluster" in result.output


def test_a_cluster_without_ray_names_the_extra_and_writes_nothing(checkpoint_file, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    arguments = ["predict", str(checkpoint_file), str(folder), "--out", str(tmp_path / "out"), "--engine", "ray"]
    result = CliRunner().invoke(main, [*arguments, "--devices", "1"])  # as make predict says it
    assert result.exit_code == 1
    assert "pip install 'convnext_imagenet[ray]'" in result.output
    assert not (tmp_path / "out").exists()
