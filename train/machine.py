"""Reads what a machine offers to a training job. `doctor.py` judges whether that is enough."""

import os
import platform
import resource
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convnext_imagenet.base.cann import (
    absent_modules,
    absent_needs,
    is_simulated,
    sourcing_advice,
)
from convnext_imagenet.launch.devices import DeviceChoice, devices_seen, driver_versions
from convnext_imagenet.launch.npu_smi import read_cards
from convnext_imagenet.model.kernels.build import NoKernels, find_compiler

_MIB = 1 << 20


@dataclass(frozen=True)
class Cann:
    """What this process lacks of CANN: modules of its own, packages that these import; and how to find CANN.

    `chip` is the name of the machine's chips, "" if npu-smi does not tell it.
    """

    absent_modules: tuple[str, ...]
    absent_needs: tuple[str, ...]
    sourcing: str
    is_simulated: bool = False
    chip: str = ""


@dataclass(frozen=True)
class Machine:
    """This machine, as this process may use it; memory in MiB.

    `packages` maps names to versions, None if a package is not installed. `drivers` maps names to versions, "" if a
    driver was not found. `open_files` is the hard limit, None for no limit. `compiler` is the command of a C++
    compiler; if it is empty, `no_compiler` says why. `cann` is None if the target is not Ascend.
    """

    python: str
    packages: Mapping[str, str | None]
    choice: DeviceChoice
    devices: int
    drivers: Mapping[str, str]
    cores: int
    memory_mib: int
    open_files: int | None
    compiler: str = ""
    no_compiler: str = ""
    cann: Cann | None = None


@dataclass(frozen=True)
class Disk:
    """The disk of a folder that may not exist yet: its nearest existing parent, and the free space there in MiB."""

    folder: Path
    free_mib: int
    is_writable: bool


def read_machine(choice: DeviceChoice, packages: Iterable[str]) -> Machine:
    """Return this machine with the versions of `packages`, for a job on the target of `choice`."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the reader of records raises the soft limit to it
    compiler, no_compiler = _compiler()
    return Machine(
        python=platform.python_version(),
        packages={name: _version(name) for name in packages},
        choice=choice,
        devices=devices_seen(choice.target),
        drivers=driver_versions(choice.target),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=available_memory_mib(),
        open_files=None if hard == resource.RLIM_INFINITY else hard,
        compiler=compiler,
        no_compiler=no_compiler,
        cann=_read_cann() if choice.target == "Ascend" else None,
    )


def read_chip() -> str:
    """Return the name of this machine's Ascend chips, "" if npu-smi does not tell it."""
    return next((card.name for card in read_cards()), "")


def read_disk(folder: Path) -> Disk:
    """Return the disk that `folder` is on or will be on. Raises OSError when it cannot be read."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return Disk(existing, shutil.disk_usage(existing).free // _MIB, os.access(existing, os.W_OK))


def available_memory_mib(root: Path = Path("/")) -> int:
    """Return the available memory in MiB: the system's, or what the control group's limit leaves if that is less."""
    lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) // 1024
    try:
        limit, used = ((root / f"sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        return min(free, (int(limit) - int(used)) // _MIB)
    except (OSError, ValueError):
        return free


def _read_cann() -> Cann:
    return Cann(absent_modules(), absent_needs(), sourcing_advice(), is_simulated(), read_chip())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _compiler() -> tuple[str, str]:
    try:
        return " ".join(find_compiler()), ""
    except NoKernels as reason:
        return "", str(reason)
