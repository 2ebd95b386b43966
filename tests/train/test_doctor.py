"""What the doctor says of a good machine and of bad ones, of records, of a RUN, and of a step and a sum."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.base import protocol
from convnext_imagenet.launch.devices import DeviceChoice
from convnext_imagenet.launch.ranks.collectives import SINGLE, Ranks
from convnext_imagenet.launch.ranks.rank import Rank
from convnext_imagenet.train import machine as machines
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.doctor import (
    ERROR,
    OK,
    TESTED,
    WARNING,
    Finding,
    examine,
    judge_disk,
    judge_open_files,
    judge_step,
    try_sum,
)
from convnext_imagenet.train.machine import Cann, Disk, Machine

from ..json_page import check_object

GOOD = Machine(
    python="3.11.9",
    packages={name: f"{tested}1" for name, tested in TESTED.items()},
    choice=DeviceChoice("CPU", "requested"),
    devices=1,
    drivers={},
    cores=8,
    memory_mib=64_000,
    open_files=1 << 20,
    compiler="/usr/bin/c++",
)


def _examine(
    machine: Machine = GOOD, devices: int = 1, records: Path | None = None, run: Path | None = None
) -> dict[str, Finding]:
    findings = list(examine(machine, devices, records, run))
    by_name = {finding.what: finding for finding in findings}
    assert len(by_name) == len(findings), "each check has a name of its own"
    assert all(finding.result for finding in findings)
    assert all(finding.advice for finding in findings if finding.level != OK)
    return by_name


def _levels(findings: dict[str, Finding]) -> set[str]:
    return {finding.level for finding in findings.values()}


def test_a_good_machine_is_ok_throughout(records_root: Path, tmp_path: Path) -> None:
    findings = _examine(devices=2, records=records_root, run=tmp_path / "new" / "run")
    disk = findings.pop("free disk")
    assert _levels(findings) == {OK}
    assert list(findings) == [*TESTED, "device target", "cores", "memory", "compiler", "records", "open files"]
    assert "34 train, 7 val rows, 3 classes, labels verified against the devkit" in findings["records"].result
    assert disk.result.endswith(f" MiB at {tmp_path}"), "the nearest folder that exists"
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize(
    ("change", "what", "level", "text"),
    [
        ({"mindspore": "2.9.1"}, "mindspore", WARNING, "2.9.1; tested with 2.10.x"),
        ({"mindspore": None}, "mindspore", ERROR, "-m pip install 'mindspore==2.10.*'` installs it"),
        ({"numpy": "1.24.4"}, "numpy", WARNING, "1.24.4; tested with 1.26.x"),
        ({"numpy": "2.1.0"}, "numpy", ERROR, "2.1.0; tested with 1.26.x"),
        ({"pyarrow": "2.5.0"}, "pyarrow", WARNING, "2.5.0; tested with 25.x"),
    ],
)
def test_a_package_of_another_version_is_named(change: dict[str, str | None], what: str, level: str, text: str) -> None:
    finding = _examine(dataclasses.replace(GOOD, packages={**GOOD.packages, **change}))[what]
    assert finding.level == level
    assert text in f"{finding.result}; {finding.advice}"


@pytest.mark.parametrize(
    ("change", "what", "level", "text"),
    [
        ({"memory_mib": 4096}, "memory", OK, "4,096 MiB available"),
        ({"memory_mib": 4095}, "memory", WARNING, "4,095 MiB available; a rank needs at least 2048 MiB"),
        ({"cores": 2}, "cores", OK, "2 for 2 ranks"),
        ({"cores": 1}, "cores", ERROR, "1 for 2 ranks; each of 2 ranks needs a core of its own"),
        (
            {"compiler": "", "no_compiler": "no C++"},
            "compiler",
            WARNING,
            "no C++; install a C++ compiler: without the kernels that it builds, a training step takes several times",
        ),
    ],
)
def test_a_machine_that_offers_too_little_is_named(change: dict[str, object], what: str, level: str, text: str) -> None:
    finding = _examine(dataclasses.replace(GOOD, **change), devices=2)[what]
    assert finding.level == level
    assert text in f"{finding.result}; {finding.advice}"


@pytest.mark.parametrize(
    ("seen", "drivers", "levels"),
    [
        (2, {"driver": "24.1", "CANN": "8.5"}, [OK, OK, OK]),
        (1, {"driver": "24.1", "CANN": ""}, [ERROR, OK, WARNING]),
        (0, {"driver": "", "CANN": ""}, [ERROR, WARNING, WARNING]),
    ],
)
def test_devices_and_what_they_need_are_looked_for(seen: int, drivers: dict[str, str], levels: list[str]) -> None:
    ascend = dataclasses.replace(GOOD, choice=DeviceChoice("Ascend", "requested"), devices=seen, drivers=drivers)
    findings = _examine(ascend, devices=2)
    assert [findings[what].level for what in ("device target", *drivers)] == levels
    assert findings["device target"].result == f"Ascend, {seen} device{'s' * (seen != 1)}: requested"


ASCEND = dataclasses.replace(
    GOOD,
    choice=DeviceChoice("Ascend", "requested"),
    devices=8,
    drivers={"driver": "24.1", "CANN": "8.5.0"},
    cann=Cann((), (), "run `source /opt/cann/set_env.sh`"),
)


@pytest.mark.parametrize("target", ["Ascend", "GPU"])
def test_a_compiler_is_needed_for_the_host_on_every_target(target: str) -> None:
    machine = dataclasses.replace(ASCEND, choice=DeviceChoice(target, "requested"), compiler="", no_compiler="no C++")
    finding = _examine(machine)["compiler"]
    assert (finding.level, finding.result) == (WARNING, "no C++")
    assert "cropping and resizing on the host take several times as long" in finding.advice


@pytest.mark.parametrize(
    ("version", "level", "text"),
    [
        ("9.0.0.1", OK, "9.0.0.1"),
        ("8.1.RC1", WARNING, "8.1.RC1; MindSpore 2.10 accepts 8.2, 8.3, 8.5, 9.0, 9.1: install one of these"),
        ("", WARNING, "not found; MindSpore needs CANN for Ascend"),
    ],
)
def test_a_cann_that_mindspore_does_not_accept_is_named(version: str, level: str, text: str) -> None:
    finding = _examine(dataclasses.replace(ASCEND, drivers={"CANN": version}))["CANN"]
    assert finding.level == level
    assert text in f"{finding.result}; {finding.advice}"


@pytest.mark.parametrize(
    ("absent", "devices", "is_simulated", "level", "result"),
    [
        ((), 8, False, OK, "can be imported"),
        (("te", "hccl"), 8, False, ERROR, "te, hccl cannot be imported"),
        (("te", "hccl"), 1, False, ERROR, "te cannot be imported"),
        (("hccl",), 1, False, OK, "can be imported"),
        (("hccl",), 2, False, ERROR, "hccl cannot be imported"),
        (("te", "hccl"), 8, True, WARNING, "te, hccl cannot be imported"),
    ],
)
def test_modules_of_cann_are_needed_unless_devices_are_simulated(
    absent: tuple[str, ...], devices: int, is_simulated: bool, level: str, result: str
) -> None:
    cann = Cann(absent, (), "run `source /opt/cann/set_env.sh`", is_simulated)
    finding = _examine(dataclasses.replace(ASCEND, cann=cann), devices=devices)["CANN for Python"]
    assert (finding.level, finding.result) == (level, result)
    assert finding.advice == "run `source /opt/cann/set_env.sh`"


@pytest.mark.parametrize(
    ("chip", "level", "result"),
    [
        ("Ascend 910B3", OK, "Ascend 910B3"),
        ("Ascend 910A", WARNING, "Ascend 910A"),
        ("Ascend910", OK, "Ascend910"),
        ("", OK, "npu-smi does not tell it"),
    ],
)
def test_the_chip_is_named_and_one_of_the_first_generation_is_warned_of(chip: str, level: str, result: str) -> None:
    finding = _examine(dataclasses.replace(ASCEND, cann=dataclasses.replace(ASCEND.cann, chip=chip)))["chip"]
    assert (finding.level, finding.result) == (level, result)
    assert level == OK or finding.advice.startswith("use an Atlas A2 or later: ")


def test_packages_that_cann_imports_are_named_with_the_command() -> None:
    cann = Cann((), ("decorator", "absl-py"), "run `source /opt/cann/set_env.sh`")
    finding = _examine(dataclasses.replace(ASCEND, cann=cann))["CANN's needs"]
    assert (finding.level, finding.result) == (WARNING, "decorator, absl-py not installed")
    assert finding.advice.endswith(" -m pip install decorator absl-py`")


@pytest.mark.parametrize(("limit", "level"), [(None, OK), (1 << 20, OK), (258, OK), (257, ERROR), (64, ERROR)])
def test_each_shard_needs_two_open_files(records_root: Path, limit: int | None, level: str) -> None:
    finding = _examine(dataclasses.replace(GOOD, open_files=limit), records=records_root)["open files"]
    assert finding.level == level
    assert level == OK or "ulimit -Hn 258" in finding.advice
    assert finding == judge_open_files(limit, shards=1)


def test_records_that_are_absent_unfinished_or_damaged_are_an_error(
    records_root: Path, finished_copy: Path, tmp_path: Path
) -> None:
    protocol.begin(tmp_path / "unfinished", "records", {})
    (finished_copy / "manifest.json").write_text("{}")
    for folder, words in {
        tmp_path / "absent": "no such directory",
        tmp_path / "unfinished": "unfinished",
        finished_copy: "changed since",
    }.items():
        findings = _examine(records=folder)
        assert findings["records"].level == ERROR
        assert words in findings["records"].result
        assert "convnext-ingest build" in findings["records"].advice
        assert "open files" not in findings


@pytest.fixture
def finished_copy(records_root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(records_root, tmp_path / "copy")


def test_labels_that_nothing_verified_are_named(finished_copy: Path) -> None:
    manifest = protocol.read_finished(finished_copy, "records")
    protocol.finish(finished_copy, "records", manifest | {"source": {"verified": False}})
    assert "labels NOT verified" in _examine(records=finished_copy)["records"].result


def test_a_run_that_cannot_be_written_is_an_error(records_root: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for run, words in {
        tmp_path / "foreign": "thesis.tex",
        records_root: "holds records, not a run",
        tmp_path / "file": "a file is in the way",
        tmp_path / "file" / "run": "a file is in the way",
    }.items():
        findings = _examine(run=run)
        assert findings["run"].level == ERROR, run
        assert words in findings["run"].result


def test_a_run_that_was_begun_resumes(tmp_path: Path) -> None:
    protocol.begin(tmp_path / "run", "run", {})
    assert "run" not in _examine(run=tmp_path / "run")


@pytest.mark.parametrize(
    ("free_mib", "is_writable", "what", "level", "text"),
    [
        (4096, True, "free disk", OK, "4096 MiB at /data"),
        (4095, True, "free disk", WARNING, "4095 MiB at /data; a checkpoint of ConvNeXt-T takes 460 MiB"),
        (9999, False, "run", ERROR, "/data cannot be written; choose another RUN"),
    ],
)
def test_a_disk_is_judged_by_its_room_and_its_permissions(
    free_mib: int, is_writable: bool, what: str, level: str, text: str
) -> None:
    finding = judge_disk(Disk(Path("/data"), free_mib, is_writable))
    assert (finding.what, finding.level) == (what, level)
    assert text in f"{finding.result}; {finding.advice}"


@pytest.mark.parametrize(
    ("loss", "norm", "level"),
    [(1.386, 1.0, OK), (math.nan, 1.0, ERROR), (1.386, math.inf, ERROR), (1.2, 1.0, ERROR), (1.6, 1.0, ERROR)],
)
def test_a_step_of_another_loss_than_chance_is_an_error(loss: float, norm: float, level: str) -> None:
    assert judge_step(loss, norm).level == level


@pytest.mark.parametrize(("others", "level"), [(3, OK), (2, ERROR), (0, ERROR)])
def test_a_sum_that_is_wrong_is_an_error(others: int, level: str) -> None:
    """Rank 0 of three gives 0; the others should give 1 and 2."""

    def add(digits: np.ndarray) -> np.ndarray:
        digits = digits.copy()
        digits[0, 0] += others
        return digits

    finding = try_sum(Ranks(Rank(0, 3), add))
    assert (finding.level, finding.result) == (level, f"{others} over 3 ranks, expected 3")
    assert try_sum(SINGLE).level == OK


def _doctor(*words: object) -> Result:
    return CliRunner().invoke(main, ["doctor", "--device-target", "CPU", *(str(word) for word in words)])


def test_the_quick_command_shows_what_is_not_ok_and_fails_for_an_error(
    records_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "read_machine", lambda *_: GOOD)
    monkeypatch.setattr("convnext_imagenet.train.doctor.read_disk", lambda _: Disk(tmp_path, 100_000, True))
    result = _doctor("--quick", "--records", records_root, "--out", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (
        0,
        "doctor: 12 of 12 checks ok; without --quick, `convnext-train doctor` shows them all\n",
    )
    monkeypatch.setattr(machines, "read_machine", lambda *_: dataclasses.replace(GOOD, memory_mib=1))
    result = _doctor("--quick")
    assert result.exit_code == 0, "a warning is none"
    warning, summary = result.stdout.splitlines()
    assert re.fullmatch(r"warning  memory +1 MiB available; a rank needs .*", warning)
    assert summary.startswith("doctor: 8 of 9 checks ok")
    result = _doctor("--quick", "--records", tmp_path / "absent")
    assert result.exit_code == 1
    assert re.search(r"^error    records +.*no such directory", result.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_whole_command_trains_a_step() -> None:
    """On this machine as it is; by one rank, which has nothing to add up."""
    result = _doctor()
    assert result.exit_code == 0, result.output
    assert re.search(r"^ok       all-reduce +not needed with one rank$", result.stdout, re.MULTILINE)
    loss, chance = re.search(
        r"^ok       training step +loss ([\d.]+), ln\(4\) = ([\d.]+)", result.stdout, re.M
    ).groups()
    assert float(chance) == pytest.approx(math.log(4), abs=1e-4)
    assert float(loss) == pytest.approx(math.log(4), rel=0.1)


def test_as_json_every_check_is_a_line(records_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "read_machine", lambda *_: dataclasses.replace(GOOD, memory_mib=1))
    result = _doctor("--quick", "--json", "--records", records_root)
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(check_object(line, "convnext-train doctor") for line in result.stdout.splitlines())
    (memory,) = (finding for finding in findings if finding["what"] == "memory")
    assert (memory["level"], memory["result"]) == ("warning", "1 MiB available")
    assert any(finding["what"] == "records" for finding in findings)
