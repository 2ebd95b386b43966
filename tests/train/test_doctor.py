"""What the doctor finds on a good machine, on a bad one, and what it advises."""

import math
import os
import re
import resource
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from convnext_imagenet.base import protocol
from convnext_imagenet.launch.devices import DeviceChoice
from convnext_imagenet.train import doctor
from convnext_imagenet.train.cli import main
from convnext_imagenet.train.doctor import ERROR, OK, TESTED, WARNING, Finding, examine

CPU = DeviceChoice("CPU", "asked for")
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _good_machine(monkeypatch: Patch) -> None:
    """One that has what any job needs, whatever this one is."""
    monkeypatch.setattr(doctor, "version", lambda name: f"{TESTED[name]}1")
    monkeypatch.setattr(doctor, "_available_memory_mib", lambda: 64_000)
    monkeypatch.setattr(doctor, "find_compiler", lambda: ["/usr/bin/c++"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000 << 20))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1 << 20))


def _examine(
    choice: DeviceChoice = CPU, devices: int = 1, records: Path | None = None, run: Path | None = None
) -> dict[str, Finding]:
    findings = list(examine(choice, devices, records, run))
    by_name = {finding.what: finding for finding in findings}
    assert len(by_name) == len(findings), "each check has a name of its own"
    assert all(finding.found for finding in findings)
    assert all(finding.advice for finding in findings if finding.level != OK)
    return by_name


def _levels(found: dict[str, Finding]) -> set[str]:
    return {finding.level for finding in found.values()}


def test_a_good_machine_is_ok_throughout(records_root: Path, tmp_path: Path) -> None:
    found = _examine(devices=2, records=records_root, run=tmp_path / "new" / "run")
    assert _levels(found) == {OK}
    others = ["device target", "cores", "memory", "compiler", "records", "open files", "free disk"]
    assert list(found) == [*TESTED, *others]
    assert "34 train, 7 val rows, 3 classes, labels checked against the devkit" in found["records"].found
    assert found["free disk"].found == f"100000 MiB at {tmp_path}", "the nearest folder that is there"
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def _versions(**found: str | None) -> Callable[[Patch], None]:
    def look_up(name: str) -> str:
        answer = found.get(name, f"{TESTED[name]}1")
        if answer is None:
            raise PackageNotFoundError(name)
        return answer

    return lambda patch: patch.setattr(doctor, "version", look_up)


def _memory(mib: int) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(doctor, "_available_memory_mib", lambda: mib)


def _no_compiler(patch: Patch) -> None:
    patch.undo()
    patch.setenv("CXX", "no-such-compiler")


def _one_core(patch: Patch) -> None:
    patch.setattr(os, "sched_getaffinity", lambda pid: {3})


@pytest.mark.parametrize(
    ("change", "what", "level", "text"),
    [
        (_versions(mindspore="2.9.1"), "mindspore", WARNING, "2.9.1; tested with 2.10.x"),
        (_versions(mindspore=None), "mindspore", ERROR, "not installed; run `make setup`"),
        (_versions(numpy="1.24.4"), "numpy", WARNING, "1.24.4; tested with 1.26.x"),
        (_versions(numpy="2.1.0"), "numpy", ERROR, "2.1.0; tested with 1.26.x"),
        (_versions(pyarrow="2.5.0"), "pyarrow", WARNING, "2.5.0; tested with 25.x"),
        (_memory(4096), "memory", OK, "4096 MiB available"),
        (_memory(4095), "memory", WARNING, "4095 MiB available; a rank needs 2048 MiB and more"),
        (_one_core, "cores", ERROR, "1 for 2 ranks; 2 ranks share them"),
        (_no_compiler, "compiler", WARNING, "CXX=no-such-compiler is not to be found; without the CPU kernels"),
    ],
)
def test_what_is_wrong_with_the_machine_is_found(
    monkeypatch: Patch, change: Callable[[Patch], None], what: str, level: str, text: str
) -> None:
    change(monkeypatch)
    finding = _examine(devices=2)[what]
    assert finding.level == level
    assert text in f"{finding.found}; {finding.advice}"


@pytest.mark.parametrize(
    ("seen", "versions", "levels"),
    [
        (2, {"driver": "24.1", "CANN": "8.5"}, [OK, OK, OK]),
        (1, {"driver": "24.1", "CANN": ""}, [ERROR, OK, WARNING]),
        (0, {"driver": "", "CANN": ""}, [ERROR, WARNING, WARNING]),
    ],
)
def test_devices_and_what_they_need_are_looked_for(
    monkeypatch: Patch, seen: int, versions: dict[str, str], levels: list[str]
) -> None:
    monkeypatch.setattr(doctor, "devices_seen", lambda target: seen)
    monkeypatch.setattr(doctor, "driver_versions", lambda target: versions)
    found = _examine(DeviceChoice("Ascend", "asked for"), devices=2)
    assert [found[what].level for what in ("device target", *versions)] == levels
    assert found["device target"].found == f"Ascend, {seen} devices (asked for)"
    assert found["compiler"].found == "not needed on Ascend"


@pytest.mark.parametrize(
    ("hard", "level"), [(resource.RLIM_INFINITY, OK), (1 << 20, OK), (258, OK), (257, ERROR), (64, ERROR)]
)
def test_each_shard_needs_two_open_files(records_root: Path, monkeypatch: Patch, hard: int, level: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, hard))
    finding = _examine(records=records_root)["open files"]
    assert finding.level == level
    assert level == OK or "ulimit -Hn 258" in finding.advice


def test_records_that_are_absent_unfinished_or_damaged_are_an_error(
    records_root: Path, finished_copy: Path, tmp_path: Path
) -> None:
    protocol.begin(tmp_path / "unfinished", "records", {})
    (finished_copy / "manifest.json").write_text("{}")
    for folder, said in {
        tmp_path / "absent": "no such directory",
        tmp_path / "unfinished": "unfinished",
        finished_copy: "changed since",
    }.items():
        found = _examine(records=folder)
        assert found["records"].level == ERROR
        assert said in found["records"].found
        assert "make records" in found["records"].advice
        assert "open files" not in found


@pytest.fixture
def finished_copy(records_root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(records_root, tmp_path / "copy")


def test_labels_that_nothing_vouches_for_are_named(finished_copy: Path) -> None:
    manifest = protocol.read_finished(finished_copy, "records")
    protocol.finish(finished_copy, "records", manifest | {"source": {"verified": False}})
    assert "labels unverified" in _examine(records=finished_copy)["records"].found


def test_a_run_that_cannot_be_written_is_an_error(records_root: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for run, said in {
        tmp_path / "foreign": "thesis.tex",
        records_root: "holds records, not run",
        tmp_path / "file": "a file is in the way",
        tmp_path / "file" / "run": "a file is in the way",
    }.items():
        found = _examine(run=run)
        assert found["run"].level == ERROR, run
        assert said in found["run"].found
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    assert f"{tmp_path} cannot be written" in _examine(run=tmp_path / "run")["run"].found


def test_a_run_that_was_begun_goes_on_and_little_room_is_a_warning(tmp_path: Path, monkeypatch: Patch) -> None:
    protocol.begin(tmp_path / "run", "run", {})
    assert _levels(_examine(run=tmp_path / "run")) == {OK}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4095 << 20))
    finding = _examine(run=tmp_path / "run")["free disk"]
    assert (finding.level, finding.found) == (WARNING, f"4095 MiB at {tmp_path / 'run'}")


def test_available_memory_is_what_the_system_or_the_control_group_leaves(monkeypatch: Patch) -> None:
    monkeypatch.undo()
    files = {"/proc/meminfo": "MemTotal:  8192000 kB\nMemAvailable:  4096000 kB\n"}
    monkeypatch.setattr(Path, "read_text", lambda path, *_, **__: files[str(path)] if str(path) in files else _absent())
    assert doctor._available_memory_mib() == 4000
    for limit, left in (("max", 4000), (str(3000 << 20), 1000), (str(9000 << 20), 4000)):
        files |= {"/sys/fs/cgroup/memory.max": f"{limit}\n", "/sys/fs/cgroup/memory.current": f"{2000 << 20}\n"}
        assert doctor._available_memory_mib() == left


def _absent() -> str:
    raise FileNotFoundError


def _doctor(*words: object) -> Result:
    return CliRunner().invoke(main, ["doctor", "--device-target", "CPU", *(str(word) for word in words)])


def test_the_quick_command_shows_what_is_not_ok_and_fails_for_an_error(
    records_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    result = _doctor("--quick", "--records", records_root, "--out", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (
        0,
        "doctor: 12 of 12 checks ok; `convnext-train doctor` tells more\n",
    )
    _memory(1)(monkeypatch)
    result = _doctor("--quick")
    assert result.exit_code == 0, "a warning is none"
    warning, summary = result.stdout.splitlines()
    assert re.fullmatch(r"warning  memory +1 MiB available; a rank needs .*", warning)
    assert summary.startswith("doctor: 8 of 9 checks ok")
    result = _doctor("--quick", "--records", tmp_path / "absent")
    assert result.exit_code == 1
    assert re.search(r"^error    records +.*no such directory", result.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_whole_command_trains_a_step(monkeypatch: Patch) -> None:
    """On this machine as it is; by one rank, which has nothing to add up."""
    monkeypatch.undo()
    result = _doctor()
    assert result.exit_code == 0, result.output
    assert re.search(r"^ok       all-reduce +not needed by one rank$", result.stdout, re.MULTILINE)
    loss, chance = re.search(
        r"^ok       training step +loss ([\d.]+), ln\(4\) = ([\d.]+)", result.stdout, re.M
    ).groups()
    assert float(chance) == pytest.approx(math.log(4), abs=1e-4)
    assert float(loss) == pytest.approx(math.log(4), rel=0.1)
