"""What must be right before a run starts, found out without MindSpore: a line for each, with what to do about it."""

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convnext_imagenet.launch.devices import Choice, devices_seen, driver_versions
from convnext_imagenet.model.kernels.build import NoKernels, find_compiler
from convnext_imagenet.records.artefact import check_begun_or_empty, read_finished
from convnext_imagenet.records.errors import RecordsError
from convnext_imagenet.records.manifest import Manifest

OK, WARNING, ERROR = "ok", "warning", "error"
TESTED = {"mindspore": "2.10.", "numpy": "1.26.", "opencv-python-headless": "4.11.", "pyarrow": "25.", "pillow": "13."}
_MIB = 1 << 20
_LEAST_MEMORY_MIB, _LEAST_DISK_MIB = 2048, 4096
_SPARE_FILES = 256


@dataclass(frozen=True)
class Finding:
    """The outcome of a check: `level` is ok, warning or error; `advice` says what to do when it is not ok."""

    level: str
    what: str
    found: str
    advice: str = ""


def examine(choice: Choice, devices: int, records: Path | None, run: Path | None) -> Iterator[Finding]:
    """Yield what is found out about this machine for a job of `devices` ranks on it, one check after the other."""
    yield from _packages()
    yield from _devices(choice, devices)
    yield _cores(devices)
    yield _memory(devices)
    yield _compiler(choice.target)
    if records is not None:
        yield from _records(records, devices)
    if run is not None:
        yield from _run(run)


def _packages() -> Iterator[Finding]:
    python = f"Python {platform.python_version()}"
    for name, tested in TESTED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(ERROR, name, "not installed", "run `make setup`, or pip install this project again")
            continue
        if not found.startswith(tested):
            advice = f"tested with {tested}x; `make setup` installs it"
            yield Finding(ERROR if name == "numpy" and found[0] != "1" else WARNING, name, found, advice)
        else:
            yield Finding(OK, name, f"{found}, {python}" if name == "mindspore" else found)


def _devices(choice: Choice, devices: int) -> Iterator[Finding]:
    seen = devices_seen(choice.target)
    if choice.target == "CPU":
        yield Finding(OK, "device target", f"CPU ({choice.reason})")
        return
    level = OK if seen >= devices else ERROR
    advice = f"{devices} are asked for: see that the driver is loaded and the devices are passed into the container"
    yield Finding(level, "device target", f"{choice.target}, {seen} devices ({choice.reason})", advice)
    for name, found in driver_versions(choice.target).items():
        missing = f"MindSpore needs {name} for {choice.target}; see its installation guide for 2.10"
        yield Finding(OK if found else WARNING, name, found or "not found", missing)


def _cores(devices: int) -> Finding:
    cores = len(os.sched_getaffinity(0))
    advice = f"{devices} ranks share them: on the CPU each rank needs one, and images are decoded by the others"
    return Finding(
        OK if cores >= devices else ERROR, "cores", f"{cores} for {devices} rank{'s' * (devices > 1)}", advice
    )


def _memory(devices: int) -> Finding:
    free = _available_memory_mib()
    level = OK if free >= devices * _LEAST_MEMORY_MIB else WARNING
    advice = f"a rank needs {_LEAST_MEMORY_MIB} MiB and more: end other programs, or lower data.global_batch_size"
    return Finding(level, "memory", f"{free} MiB available", advice)


def _available_memory_mib() -> int:
    """What the system says is available, or what the control group leaves of its limit, if that is less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) // 1024
    try:
        limit, used = (Path("/sys/fs/cgroup", f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return min(free, (int(limit) - int(used)) // _MIB)
    except (OSError, ValueError):
        return free


def _compiler(target: str) -> Finding:
    if target != "CPU":
        return Finding(OK, "compiler", f"not needed on {target}")
    try:
        return Finding(OK, "compiler", " ".join(find_compiler()))
    except NoKernels as reason:
        return Finding(WARNING, "compiler", str(reason), "without the CPU kernels a step takes several times as long")


def _records(records: Path, devices: int) -> Iterator[Finding]:
    try:
        manifest = Manifest.from_json(read_finished(records, "records"))
    except RecordsError as error:
        yield Finding(ERROR, "records", str(error), "make them by `make records DATA=/path/to/imagenet`")
        return
    rows = ", ".join(f"{split.rows} {name}" for name, split in manifest.splits.items())
    labels = f"labels checked against {manifest.verified_against}" if manifest.verified_against else "labels unverified"
    yield Finding(OK, "records", f"{records}: {rows} rows, {len(manifest.classes)} classes, {labels}")
    shards = max(len(split.shards) for split in manifest.splits.values())
    needed = 2 * shards + _SPARE_FILES
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    is_enough = hard == resource.RLIM_INFINITY or hard >= needed
    found = "no limit" if hard == resource.RLIM_INFINITY else f"{hard} allowed, {needed} needed"
    yield Finding(OK if is_enough else ERROR, "open files", found, f"raise the limit: `ulimit -Hn {needed}`")


def _run(run: Path) -> Iterator[Finding]:
    try:
        check_begun_or_empty(run, "run")
        existing = next(folder for folder in (run.absolute(), *run.absolute().parents) if folder.exists())
        free = shutil.disk_usage(existing).free // _MIB
    except (RecordsError, OSError) as error:
        yield Finding(ERROR, "run", str(error), "choose another RUN")
        return
    if not os.access(existing, os.W_OK):
        yield Finding(ERROR, "run", f"{existing} cannot be written", "choose another RUN, or change its permissions")
        return
    level = OK if free >= _LEAST_DISK_MIB else WARNING
    advice = "a checkpoint of ConvNeXt-T takes 460 MiB, and five may be kept: make room"
    yield Finding(level, "free disk", f"{free} MiB at {existing}", advice)
