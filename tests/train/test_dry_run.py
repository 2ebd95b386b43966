"""The command of a dry run: what it refuses, what it prints, and that for the CPU it needs no stand-ins or records."""

import re
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from convnext_imagenet.launch.dry_run.kernels import ACLNN, ACLOP, HCCL, Kernel, TensorType
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.source import load_config
from convnext_imagenet.train.dry_run import DryRunPlan, DryRunReport, GraphReport, dry_run, plan_dry_run
from convnext_imagenet.train.dry_run_table import report_lines
from convnext_imagenet.train.errors import ConfigError, TrainError

FLOATS = TensorType("Float32", (1000, 1000))
ADD = Kernel("Add", ACLNN, (FLOATS, FLOATS), (FLOATS,))
OLD = Kernel("AddN", ACLOP, (FLOATS, FLOATS), (FLOATS,), scope="here")
SUM = Kernel("AllReduce", HCCL, (FLOATS,), (FLOATS,))
REPORT = DryRunReport(
    target="Ascend",
    libraries="Ascend910B1, stand-ins for CANN",
    devices=8,
    classes=10,
    graphs=(
        GraphReport("micro-batch", 16, 4, (ADD, OLD, Kernel("AddN", ACLOP, (FLOATS, FLOATS), (FLOATS,)))),
        GraphReport("update", 0, 1, (ADD, SUM)),
        GraphReport("augmentation alone", 16, 0, (ADD,)),
        GraphReport("evaluation", 64, 0, (ADD, Kernel("Odd", "internal", (), (FLOATS,)))),
    ),
    train_compile_s=12.4,
    eval_compile_s=3.0,
    train_memory=70_000_000_000,
    memory=71_000_000_000,
)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--dry-run", "--device-target", "GPU"], 1, "--device-target GPU: a dry run is not possible"),
        (["--dry-run", "--device-target", "CPU", "--devices", "2"], 1, "--devices 2: a dry run for the CPU compiles"),
        (["--dry-run", "--devices", "32"], 1, "data.global_batch_size=64"),
        (["--dry-run", "--records", "absent"], 1, "absent"),
        (
            ["--dry-run", "--records", "s3://bucket/r"],
            1,
            "--records s3://bucket/r: a URI, from which --dry-run fetches nothing",
        ),
        (["--dry-run", "--set", "model.depth=[1]"], 1, "did you mean model.depths"),
        (["--json", "kernels.json", "--records", "r", "--out", "o"], 2, "--json needs --dry-run"),
        (["--out", "o"], 2, "Missing option '--records'"),
        (["--records", "r"], 2, "Missing option '--out'"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: list[str], code: int, text: str) -> None:
    result = CliRunner().invoke(main, ["run", "demo", *words])
    assert (result.exit_code, text in result.output) == (code, True), result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("has_records", [False, True])
def test_a_batch_that_the_devices_cannot_divide_is_refused_as_by_the_run(
    has_records: bool, records_root: Path, config: Config
) -> None:
    records = records_root if has_records else None
    with pytest.raises(ConfigError, match=r"global_batch_size = 8: 8 devices take pairs .* pass --set .*size=32$"):
        plan_dry_run(config, records, "Ascend", 8)
    assert plan_dry_run(config, records, "Ascend", 2).devices == 2


@pytest.mark.slow
def test_a_dry_run_for_the_cpu_counts_kernels(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    sets = [word for value in tiny for word in ("--set", value)]
    report = tmp_path / "kernels.json"
    words = ["run", "demo", "--dry-run", "--device-target", "CPU", "--json", str(report), *sets]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "not proven by a dry run" in result.output
    assert report.exists()
    assert not (tmp_path / "run").exists()


def test_a_report_is_a_table_and_its_sums() -> None:
    lines = list(report_lines(REPORT, "paper-tiny"))
    rows = [" ".join(line.split()) for line in lines]
    assert lines[0] == "paper-tiny on 8 devices: Ascend (Ascend910B1, stand-ins for CANN), 10 classes"
    assert rows[2] == "graph rows a step kernels aclnn aclop AI CPU host HCCL internal GB moved"
    assert rows[3] == "micro-batch 16 4 3 1 2 0 0 0 0 0.036"
    assert rows[4] == "update - 1 2 1 0 0 0 1 0 0.020"
    assert rows[5] == "augmentation alone 16 - 1 1 0 0 0 0 0 0.012"
    assert rows[6] == "evaluation 64 - 2 1 0 0 0 0 1 0.016"
    assert len({len(line) for line in lines[2:7]}) == 1, "columns are aligned"
    assert lines[8] == "a step of one device: 14 launches, 0.164 GB moved, 64 images"
    assert lines[9] == "peak device memory: 70.0 GB in training, 71.0 GB with evaluation"
    assert "more than the 64.4 GB that MindSpore uses of a card of 64 GiB" in lines[10]
    assert lines[11] == "different aclop kernels, compiled by CANN at first use: 1", "wherever they are"
    assert lines[-1].startswith("not proven by a dry run: numbers")


def test_a_report_as_json_holds_the_sums_and_every_kernel() -> None:
    report = REPORT.to_json()
    assert (report["launches"], report["all_reduces"], report["moved_bytes"]) == (14, 1, 164_000_000)
    assert report["graphs"][1]["kernels"][1]["inputs"] == ({"dtype": "Float32", "shape": (1000, 1000)},)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 3", "ended with code 3: no message"),
        (
            "printf '[WARNING] x\\nRuntimeError: no memory\\n  at a.cc:1\\n[ERROR] y\\n' >&2; exit 1",
            "RuntimeError: no memory",
        ),
        ("echo Segmentation >&2; kill -SEGV $$", "ended with code -11: Segmentation"),
    ],
)
def test_a_process_that_dies_is_one_line_and_its_log_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TrainError, match=re.escape(words)) as caught:
        dry_run(load_config("demo", ()), DryRunPlan("CPU", 1, 10))
    [kept] = tmp_path.glob("convnext-dry-run-*")
    assert str(caught.value).endswith(f"its log: {kept}")
