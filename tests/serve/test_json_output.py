"""What --json prints is what docs/json.md says, and nothing else is on standard output."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.serve.cli import main

from ..json_page import check_object, check_progress
from .conftest import build_records, picture

IMAGES = [picture(seed) for seed in range(5)]


def _call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_eval_with_and_without_a_report(checkpoint_file, tmp_path):
    records = build_records(tmp_path / "records", IMAGES, [0, 1, 2, 3, 4])
    for options in ([], ["--report", tmp_path / "report"]):
        done = _call("eval", checkpoint_file, "--records", records, "--json", *options)
        assert done.exit_code == 0, done.output
        value = check_object(done.stdout, "convnext-serve eval")
        assert (value["rows"], value["top1"]) == (5, value["top1_correct"] / 5)
        assert "Top1-Acc" in done.stderr


def test_predict_then_verify_then_a_damaged_part(checkpoint_file, folder, tmp_path):
    out = tmp_path / "out"
    done = _call("predict", checkpoint_file, folder, "--out", out, "--max-errors", 0, "--json", "--progress", "json")
    assert done.exit_code == 3, "the object is printed although there are more error rows than allowed"
    value = check_object(done.stdout, "convnext-serve predict")
    assert sum(value["statuses"].values()) == value["rows"] == 11
    assert check_progress(done.stderr) == {"predict": 11}
    verified = _call("verify", out, "--json")
    assert check_object(verified.stdout, "convnext-serve verify")["problems"] == []
    (out / "part-00000.parquet").write_bytes(b"PAR1")
    damaged = _call("verify", out, "--json")
    assert damaged.exit_code == 1
    assert check_object(damaged.stdout, "convnext-serve verify")["problems"]


def test_weights_out_and_in_again(checkpoint_file, tmp_path):
    out = tmp_path / "out.safetensors"
    exported = _call("weights", "export", checkpoint_file, "--out", out, "--format", "safetensors", "--json")
    assert check_object(exported.stdout, "convnext-serve weights export")["is_new"] is True
    inspected = _call("weights", "inspect", checkpoint_file, "--json")
    value = check_object(inspected.stdout, "convnext-serve weights inspect")
    assert value["config"]["dims"] == [8, 16, 24, 32]
    assert len(value["classes"]) == 7
    assert "7 classes: n00000000 (name 0, synonym 0)" in _call("weights", "inspect", checkpoint_file).stdout
    (tmp_path / "classes.txt").write_text("".join(f"{wnid} {name}\n" for wnid, name in value["classes"]))
    words = (out, "--out", tmp_path / "in.safetensors", "--classes", tmp_path / "classes.txt")
    imported = _call("weights", "import", *words, "--json")
    assert imported.exit_code == 0, imported.output
    assert check_object(imported.stdout, "convnext-serve weights inspect")["config"]["dims"] == [8, 16, 24, 32]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "truncated, or not"),
        (b"\xff" * 20, "truncated, or not"),
        (b"\x02\0\0\0\0\0\0\0{}", "without our model card"),
        (b"\x09\0\0\0\0\0\0\0{}", "truncated, or not"),
    ],
)
def test_another_file_is_refused_in_one_line(content, said, tmp_path):
    file = tmp_path / "w.safetensors"
    if content is not None:
        file.write_bytes(content)
    done = _call("weights", "inspect", file, "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_dry_run_of_predict_writes_nothing_and_agrees_with_the_job(checkpoint_file, folder, tmp_path):
    words = (
        "predict",
        checkpoint_file,
        folder,
        "--out",
        tmp_path / "out",
        "--batch-size",
        4,
        "--max-errors",
        9,
        "--json",
    )
    forecast = _call(*words, "--dry-run")
    assert forecast.exit_code == 0, forecast.output
    said = check_object(forecast.stdout, "convnext-serve predict --dry-run")
    assert "nothing was written" in forecast.stderr
    assert not (tmp_path / "out").exists()
    done = check_object(_call(*words).stdout, "convnext-serve predict")
    assert (said["inputs"], said["parts"], said["statuses"]) == (done["rows"], done["parts"], done["statuses"])
    assert said["seconds"] >= said["start_s"] > 0
    assert _call(*words, "--dry-run", "--devices", 2).exit_code == 2


@pytest.mark.slow
def test_two_ranks_print_one_object(checkpoint_file, tmp_path):
    records = build_records(tmp_path / "records", IMAGES, [0, 1, 2, 3, 4])
    script = "import sys; sys.argv[0] = sys.argv.pop(1); from convnext_imagenet.serve.cli import main; main()"
    program = Path(sys.executable).with_name("convnext-serve")
    words = [program, "eval", checkpoint_file, "--records", records, "--devices", "2", "--json"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert check_object(done.stdout, "convnext-serve eval")["rows"] == 5
    assert "2 ranks on CPU" in done.stderr
