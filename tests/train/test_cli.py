"""The command line: one clear line for each mistake, nothing written, and the log lines of a run."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.base.files import read_json, sha256_file, write_json
from convnext_imagenet.model.errors import ModelError
from convnext_imagenet.records.folds import folds_of
from convnext_imagenet.records.manifest import ClassEntry
from convnext_imagenet.records.reader import Records
from convnext_imagenet.records.schema import Row
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.cli_request import load_fitting
from convnext_imagenet.train.config.schedule import BatchParts
from convnext_imagenet.train.errors import ConfigError, TrainError

from ..records_of import finished_records


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, ["run", *(str(word) for word in words)])


def _overrides(tiny: tuple[str, ...]) -> list[str]:
    return [word for override in tiny for word in ("--set", override)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dmo"], ["unknown preset dmo; did you mean demo?", "paper-tiny"]),
        (["nothing.toml"], ["nothing.toml: cannot be read"]),
        (["demo", "--set", "schedule.base_learning_rate=1"], ["use schedule.base_lr (the highest rate"]),
        (["demo", "--devices", "999"], ["--devices 999: must not exceed the", "cores"]),
        (["demo", "--device-target", "Ascend"], ["--devices 1 --device-target Ascend: the drivers show 0"]),
        (["demo", "--nodes", "2"], ["--rendezvous '': expected HOST or HOST:PORT of machine 0"]),
        (["demo", "--nodes", "2", "--master", "h", "--node-rank", "2"], ["--node-rank 2: must be below --nodes 2"]),
        (["demo", "--workers", "999"], ["--workers 999: must not exceed the", "cores"]),
        (["demo", "--nondeterministic"], ["--nondeterministic: the CPU is always deterministic", "leave it out"]),
        (
            ["demo", "--nodes", "32", "--rendezvous", "h"],
            ["data.global_batch_size = 32: 32 devices", "multiple of 64; pass --set data.global_batch_size=64"],
        ),
        (["demo"], ["absent: no such RECORDS directory", "convnext-ingest build /path/to/images --out"]),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words: list[str], said: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = _run(*words, "--records", tmp_path / "absent", "--out", out)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    for text in said:
        assert text in result.stderr
    assert not out.exists()


def test_several_faults_are_a_line_each_and_their_ways_out_together_start_the_run(
    records_root: Path, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["--records", records_root, "--out", tmp_path / "run"]
    wrong = [*_overrides(tiny), *_overrides(("data.global_batch_size=4096", "model.num_classes=1000"))]
    refused = _run("paper-tiny", *paths, *wrong)
    first, *lines = refused.stderr.splitlines()
    assert (refused.exit_code, first) == (1, "Error: 2 faults in the configuration:")
    assert lines[0].startswith("  data.global_batch_size = 4096: must not exceed the 34 training rows; pass --set ")
    assert lines[1].startswith("  model.num_classes = 1000: the records hold 3 classes; ")
    assert len(lines) == 2
    assert not (tmp_path / "run").exists()

    def stop(parts: BatchParts, ranks: object) -> None:
        raise TrainError(f"planned: {parts}")

    monkeypatch.setattr("convnext_imagenet.train.run.run.check_same_parts", stop)  # the last check before writing
    ways_out = re.findall(r"--set (\S+=\d+)", refused.stderr)
    followed = _run("paper-tiny", *paths, *wrong, *_overrides(tuple(ways_out)))
    assert followed.stderr.splitlines()[-1] == "Error: planned: global batch 4 = 1 device x 2 micro-batches x 2 rows"


def test_a_batch_must_fit_the_rows_outside_a_left_out_fold(records_root: Path, tiny: tuple[str, ...]) -> None:
    overrides = (*tiny, "data.global_batch_size=32")
    assert load_fitting("paper-tiny", overrides, records_root, 1, "CPU").data.global_batch_size == 32
    train = Records.open(records_root).split("train")
    rows = int((folds_of(train, 2) != 1).sum())
    assert rows < 32
    with pytest.raises(ConfigError, match=f"32: must not exceed the {rows} training rows"):
        load_fitting("paper-tiny", (*overrides, "data.leave_out=1/2"), records_root, 1, "CPU")


def test_what_is_lost_without_deterministic_sums_is_said_and_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With an Ascend that this machine lacks: up to the call that would set it up."""
    told = []

    def stop(*words: object) -> None:
        told.append(words)
        raise ModelError("as far as this machine goes")

    monkeypatch.setattr("convnext_imagenet.launch.cli.devices_seen", lambda _: 1)
    monkeypatch.setattr("convnext_imagenet.model.runtime.prepare", stop)
    words = ["demo", "--device-target", "Ascend", "--records", tmp_path, "--out", tmp_path / "run"]
    result = _run(*words, "--nondeterministic")
    assert told == [("Ascend", 0, False)]
    first, _ = result.stderr.splitlines()
    assert first.startswith("--nondeterministic: a resumed run will not be bit-identical, and a checkpoint may find")
    assert "nondeterministic" not in _run(*words).stderr
    assert told[1:] == [("Ascend", 0, True)]


def test_records_without_train_are_refused_in_one_line(tmp_path: Path) -> None:
    image = cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))[1].tobytes()
    row = Row(image, 0, sample_id=0, key="val_0", height=30, width=40)
    classes = [ClassEntry(index, f"n{index:08d}", f"name {index}") for index in range(2)]
    records = finished_records(tmp_path / "records", {"val": [row]}, classes, {"rows": 1})
    result = _run("demo", "--records", records, "--out", tmp_path / "run", "--device-target", "CPU")
    assert (result.exit_code, (tmp_path / "run").exists()) == (1, False), result.output
    assert result.stderr.splitlines()[-1] == f"Error: {records}: no rows in split 'train'; splits with rows: val"


def test_missing_options_are_a_usage_error() -> None:
    assert _run("demo").exit_code == 2


def test_a_run_prints_the_examples_lines_and_what_comes_next(finished_output: Result, finished_run: Path) -> None:
    said = finished_output.stdout
    assert "global batch 8 = 1 device x 2 micro-batches x 4 rows\n4 epochs, 4 steps per epoch, 8 images" in said
    assert re.search(r"^epoch: 1 step: 4, loss is \d+\.\d+$", said, re.MULTILINE)
    assert len(re.findall(r"^epoch time: [\d.]+ ms, per step time: [\d.]+ ms$", said, re.MULTILINE)) == 4
    assert len(re.findall(r"^epoch: [34] Top1-Acc: [01]\.\d+, Top3-Acc: 1\.0+$", said, re.MULTILINE)) == 2
    assert len(re.findall(r"^epoch: [34] EMA Top1-Acc: [01]\.\d+, Top3-Acc: 1\.0+$", said, re.MULTILINE)) == 2
    assert re.search(r"^best top-1 on val( \(EMA weights\))?: [01]\.\d+ \(epoch [34]\)$", said, re.MULTILINE)
    assert f"curves: {finished_run / 'curves.png'}" in said
    assert (finished_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"Next: convnext-serve eval {finished_run} --records " in said
    assert "img/s" in finished_output.stderr


def test_a_finished_run_says_so(finished_run: Path, records_root: Path, tiny: tuple[str, ...]) -> None:
    result = _run("paper-tiny", "--records", records_root, "--out", finished_run, *_overrides(tiny))
    assert result.exit_code == 0, result.stderr
    assert "already finished, nothing to do" in result.stdout
    other = _run("paper-tiny", "--records", records_root, "--out", finished_run, *_overrides((*tiny, "train.epochs=9")))
    assert other.exit_code == 1
    assert "differs in: train.epochs): train.epochs is 4 in the directory, now 9" in other.stderr


@pytest.mark.slow
def test_records_at_a_uri_are_those_that_the_run_began_on(
    finished_run: Path, records_root: Path, tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVNEXT_RECORDS_CACHE", str(tmp_path / "copies"))
    there = shutil.copytree(records_root, tmp_path / "there")
    words = ["--records", f"file://{there}", "--out", finished_run, *_overrides(tiny)]
    result = _run("paper-tiny", *words)
    assert result.exit_code == 0, result.stderr
    assert f"file://{there}: fetching" in result.stderr
    assert "already finished, nothing to do" in result.stdout
    manifest = read_json(there / "manifest.json")
    write_json(there / "manifest.json", manifest | {"seed": manifest["seed"] + 1})
    write_json(there / "_SUCCESS", {"manifest_sha256": sha256_file(there / "manifest.json")})
    changed = _run("paper-tiny", *words)
    assert changed.exit_code == 1
    assert "belongs to another run" in changed.stderr


@pytest.mark.slow
def test_the_picture_that_the_network_saw_can_be_drawn_again(
    finished_run: Path, records_root: Path, tmp_path: Path
) -> None:
    words = ["replay", str(finished_run), "--records", str(records_root), "--sample", "n00000002_1", "--epoch"]
    seen = {}
    for epoch, name in (("1", "one.png"), ("1", "again.png"), ("2", "two.png")):
        result = CliRunner().invoke(main, [*words, epoch, "--out", str(tmp_path / name)])
        if "skips this image" in result.stderr:
            continue
        assert result.exit_code == 0, result.stderr
        assert f"n00000002_1 in epoch {epoch}, step " in result.stdout
        seen[name] = (tmp_path / name).read_bytes()
    assert len(set(seen.values())) == len({name for name in seen if name != "again.png"}) > 0


@pytest.mark.parametrize(
    ("sample", "epoch", "out", "said"),
    [
        ("n00000009_1", "1", "a.png", "Error: --sample n00000009_1: no such row"),
        ("n00000002_1", "9", "a.png", "--epoch 9: the run has only epochs 1 to 4; choose one of them"),
        ("n00000002_1", "1", "a.gif", "must end in .jpg"),
    ],
)
def test_replay_refuses_in_one_line(
    sample: str, epoch: str, out: str, said: str, finished_run: Path, records_root: Path, tmp_path: Path
) -> None:
    places = ["--records", str(records_root), "--out", str(tmp_path / out)]
    result = CliRunner().invoke(main, ["replay", str(finished_run), "--sample", sample, "--epoch", epoch, *places])
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / out).exists()


def test_curves_of_a_run_can_be_drawn_at_any_time(finished_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["plot", str(finished_run), "--out", str(tmp_path / "now.png")])
    assert (result.exit_code, "4 epochs" in result.stdout) == (0, True)
    assert (tmp_path / "now.png").read_bytes() == (finished_run / "curves.png").read_bytes()
    result = CliRunner().invoke(main, ["plot", str(tmp_path)])
    assert (result.exit_code, "no finished epoch" in result.stderr) == (1, True)


def test_plot_says_how_many_lines_it_cannot_read(tmp_path: Path) -> None:
    lines = [
        json.dumps({"epoch": n, "step": n, "train_loss": 1.0, "val_top1": 0.5, "val_loss": 1.0}) for n in (1, 2, 3)
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join([lines[0], lines[1][:9], lines[2]]) + "\n")
    result = CliRunner().invoke(main, ["plot", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "curves.png: 1 epoch\n" in result.stdout
    assert result.stderr == f"Warning: {file}: line 2 is damaged; 2 lines from there left out\n"
