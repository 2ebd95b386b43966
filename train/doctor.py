"""One tiny training step on the real device, through the same graph as a run, and one sum over all ranks."""

import math
import os
import platform
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.protocol import check_begun_or_empty, read_finished
from convnext_imagenet.launch.devices import DeviceChoice, devices_seen, driver_versions
from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import init_parameters
from convnext_imagenet.model.kernels.build import NoKernels, find_compiler
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.train.augment.device import device_draws
from convnext_imagenet.train.config.config import config_from_mapping
from convnext_imagenet.train.config.schedule import local_positions
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.step.learner import Learner, read_outcome
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config

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


def examine(choice: DeviceChoice, devices: int, records: Path | None, run: Path | None) -> Iterator[Finding]:
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


def _devices(choice: DeviceChoice, devices: int) -> Iterator[Finding]:
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
    except ArtefactError as error:
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
    except (ArtefactError, OSError) as error:
        yield Finding(ERROR, "run", str(error), "choose another RUN")
        return
    if not os.access(existing, os.W_OK):
        yield Finding(ERROR, "run", f"{existing} cannot be written", "choose another RUN, or change its permissions")
        return
    level = OK if free >= _LEAST_DISK_MIB else WARNING
    advice = "a checkpoint of ConvNeXt-T takes 460 MiB, and five may be kept: make room"
    yield Finding(level, "free disk", f"{free} MiB at {existing}", advice)


_CLASSES, _SIZE_PX, _ROWS_A_RANK = 4, 32, 4
_MODEL = {"variant": "convnext_atto", "depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "drop_path_rate": 0.0}
_BLAME = "see the lines above, and MindSpore's installation guide for this device"


def try_sum(ranks: Ranks) -> Finding:
    """Add up the ranks' numbers, 0 + 1 + 2 + ..., by one all-reduce."""
    count = ranks.own.world
    if count == 1:
        return Finding(OK, "all-reduce", "not needed by one rank")
    found, expected = int(ranks.sum(np.array(ranks.own.number))), count * (count - 1) // 2
    level = OK if found == expected else ERROR
    return Finding(level, "all-reduce", f"{found} over {count} ranks, expected {expected}", _BLAME)


def try_step(ranks: Ranks) -> Finding:
    """Train a network of four tiny blocks for one step on random images; its loss must be near ln(classes)."""
    config = config_from_mapping({"model": _MODEL, "data": {"size_px": _SIZE_PX, "eval_size_px": _SIZE_PX}})
    network = network_config(config.model, _CLASSES)
    classes = tuple((f"n{index:08d}", f"class {index}") for index in range(_CLASSES))
    card = ModelCard(network, classes, evaluation_transform(config.data))
    learner = Learner(config, card, init_parameters(network, config.train.seed), ranks.own.world)
    ids = local_positions(_ROWS_A_RANK * ranks.own.world, ranks.own.number, ranks.own.world)
    pixels = np.random.default_rng(0).integers(0, 256, (_ROWS_A_RANK, _SIZE_PX, _SIZE_PX, 3), dtype=np.uint8)
    draws = device_draws(config, 1, 0, ids, learner.drop_path_rates)
    batch = Batch(pixels, (ids % _CLASSES).astype(np.int32), ids, draws)
    found = read_outcome(learner.learn([batch], rate=1e-3, decay=0.0))
    chance = math.log(_CLASSES)
    is_sane = math.isfinite(found.gradient_norm) and abs(found.loss - chance) < 0.1 * chance
    text = f"loss {found.loss:.4f}, ln({_CLASSES}) = {chance:.4f}, gradient norm {found.gradient_norm:.3g}"
    return Finding(OK if is_sane else ERROR, "training step", text, _BLAME)
