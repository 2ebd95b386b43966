"""What a machine offers: read from this one, and from files of another."""

import os
from pathlib import Path

import pytest

from convnext_imagenet.launch.devices import DeviceChoice
from convnext_imagenet.train.machine import available_memory_mib, read_disk, read_machine

CPU = DeviceChoice("CPU", "asked for")


def test_this_machine_is_read_as_it_is() -> None:
    machine = read_machine(CPU, ["numpy", "no-such-package"])
    assert machine.packages["numpy"].startswith("1.26.")
    assert machine.packages["no-such-package"] is None
    assert (machine.choice, machine.devices, machine.drivers) == (CPU, 1, {})
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.memory_mib > 0
    assert bool(machine.compiler) != bool(machine.no_compiler)


def test_a_compiler_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    machine = read_machine(CPU, [])
    assert machine.compiler == ""
    assert "CXX=no-such-compiler is not found" in machine.no_compiler


@pytest.mark.parametrize(("limit_mib", "left_mib"), [(None, 4000), ("max", 4000), (3000, 1000), (9000, 4000)], ids=str)
def test_available_memory_is_what_the_system_or_the_control_group_leaves(
    tmp_path: Path, limit_mib: int | str | None, left_mib: int
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  8192000 kB\nMemAvailable:  4096000 kB\n")
    if limit_mib is not None:
        group = tmp_path / "sys" / "fs" / "cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit_mib if limit_mib == 'max' else int(limit_mib) << 20}\n")
        (group / "memory.current").write_text(f"{2000 << 20}\n")
    assert available_memory_mib(tmp_path) == left_mib


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    disk = read_disk(tmp_path / "new" / "run")
    assert (disk.folder, disk.is_writable) == (tmp_path, True)
    assert disk.free_mib > 0
    assert list(tmp_path.iterdir()) == [], "nothing is written"
