"""Checks whether a machine can train: its hardware and software, the records, the RUN directory, one step, one sum.

`machine.py` reads the machine; the functions here judge what it read. This module must not print.
"""

import math
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext_imagenet.base.cann import ACCEPTED_VERSIONS, is_accepted
from convnext_imagenet.base.errors import ArtefactError
from convnext_imagenet.base.protocol import check_begun_or_empty, read_finished
from convnext_imagenet.base.wording import as_word, install_command, plural, to_type
from convnext_imagenet.launch.devices import is_first_generation
from convnext_imagenet.launch.npu_smi import name_in_cann
from convnext_imagenet.launch.ranks.collectives import Ranks
from convnext_imagenet.model.card import ModelCard
from convnext_imagenet.model.convnext import init_parameters
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.train.augment.device import device_draws
from convnext_imagenet.train.config.config import config_from_mapping
from convnext_imagenet.train.config.schedule import local_positions
from convnext_imagenet.train.data.pipeline import Batch
from convnext_imagenet.train.machine import Cann, Disk, Machine, read_disk
from convnext_imagenet.train.step.learner import Learner, read_outcome
from convnext_imagenet.train.step.parameters import evaluation_transform, network_config

OK, WARNING, ERROR = "ok", "warning", "error"
TESTED = {"mindspore": "2.10.", "numpy": "1.26.", "opencv-python-headless": "4.11.", "pyarrow": "25.", "pillow": "13."}
_LEAST_MEMORY_MIB, _LEAST_DISK_MIB = 2048, 4096  # five checkpoints of ConvNeXt-T take 2,300 MiB
_SPARE_FILES = 256  # libraries, logs, checkpoints and pipes, beside the shards
# A network that compiles in seconds and still has every layer of a ConvNeXt.
_CLASSES, _SIZE_PX, _ROWS_A_RANK = 4, 32, 4
_MODEL = {"variant": "convnext_atto", "depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "drop_path_rate": 0.0}
_DEVICE_ADVICE = "see the lines above, and MindSpore's installation guide for this device"


@dataclass(frozen=True)
class Finding:
    """The result of a check: `level` is ok, warning or error; `advice` says what to do when it is not ok."""

    level: str
    what: str
    result: str
    advice: str = ""


def examine(machine: Machine, devices: int, records: Path | None, run: Path | None) -> Iterator[Finding]:
    """Yield, check by check, whether this machine can run a job of `devices` ranks with these directories."""
    yield from judge_machine(machine, devices)
    if records is not None:
        yield from _examine_records(records, machine.open_files)
    if run is not None:
        yield _examine_run(run)


def judge_machine(machine: Machine, devices: int) -> Iterator[Finding]:
    """Yield, check by check, whether the machine is good enough for `devices` ranks."""
    for name, tested in TESTED.items():
        yield _judge_package(name, machine.packages[name], tested, machine.python)
    yield from _judge_devices(machine, devices)
    yield _judge_cores(machine.cores, devices)
    yield _judge_memory(machine.memory_mib, devices)
    yield _judge_compiler(machine)


def judge_open_files(open_files: int | None, shards: int) -> Finding:
    """Return whether the limit of open files (None: no limit) is enough: MindRecord opens two files per shard."""
    needed = 2 * shards + _SPARE_FILES
    if open_files is None:
        return Finding(OK, "open files", "no limit")
    level = OK if open_files >= needed else ERROR
    advice = f"raise the hard limit: `ulimit -Hn {needed}` as root"
    return Finding(level, "open files", f"{open_files:,} allowed, {needed:,} needed", advice)


def judge_disk(disk: Disk) -> Finding:
    """Return whether a RUN directory can be written to the disk, and whether the disk has room for it."""
    if not disk.is_writable:
        advice = "choose another RUN directory, or change its permissions"
        return Finding(ERROR, "run", f"{disk.folder} cannot be written", advice)
    level = OK if disk.free_mib >= _LEAST_DISK_MIB else WARNING
    advice = "a checkpoint of ConvNeXt-T takes 460 MiB, and a run may keep five: free some space"
    return Finding(level, "free disk", f"{disk.free_mib} MiB at {disk.folder}", advice)


def judge_step(loss: float, gradient_norm: float) -> Finding:
    """Return whether the loss of an untrained network is at chance level, ln(classes), and its gradients are finite."""
    chance = math.log(_CLASSES)
    is_sane = math.isfinite(gradient_norm) and abs(loss - chance) < 0.1 * chance
    text = f"loss {loss:.4f}, ln({_CLASSES}) = {chance:.4f}, gradient norm {gradient_norm:.3g}"
    return Finding(OK if is_sane else ERROR, "training step", text, _DEVICE_ADVICE)


def try_sum(ranks: Ranks) -> Finding:
    """Return whether one all-reduce adds up the numbers of the ranks, 0 + 1 + 2 + ..., correctly."""
    count = ranks.own.world
    if count == 1:
        return Finding(OK, "all-reduce", "not needed with one rank")
    total, expected = int(ranks.sum(np.array(ranks.own.number))), count * (count - 1) // 2
    level = OK if total == expected else ERROR
    return Finding(level, "all-reduce", f"{total} over {count} ranks, expected {expected}", _DEVICE_ADVICE)


def try_step(ranks: Ranks) -> Finding:
    """Return whether one training step of a tiny network on random images works, through the same graph as a run."""
    config = config_from_mapping({"model": _MODEL, "data": {"size_px": _SIZE_PX}})
    network = network_config(config.model, _CLASSES)
    classes = tuple((f"n{index:08d}", f"class {index}") for index in range(_CLASSES))
    card = ModelCard(network, classes, evaluation_transform(config.data))
    learner = Learner(config, card, init_parameters(network, config.train.seed), ranks.own.world)
    ids = local_positions(_ROWS_A_RANK * ranks.own.world, ranks.own.number, ranks.own.world)
    pixels = np.random.default_rng(0).integers(0, 256, (_ROWS_A_RANK, _SIZE_PX, _SIZE_PX, 3), dtype=np.uint8)
    draws = device_draws(config, 1, 0, ids, learner.drop_path_rates)
    batch = Batch(pixels, (ids % _CLASSES).astype(np.int32), ids, draws)
    outcome = read_outcome(learner.learn([batch], rate=1e-3, decay=0.0))
    return judge_step(outcome.loss, outcome.gradient_norm)


def _judge_package(name: str, version: str | None, tested: str, python: str) -> Finding:
    install = f"`{to_type('setup', install_command(f'{name}=={tested}*'))}` installs it"
    if version is None:
        return Finding(ERROR, name, "not installed", install)
    if version.startswith(tested):
        return Finding(OK, name, f"{version}, Python {python}" if name == "mindspore" else version)
    level = ERROR if name == "numpy" and version[0] != "1" else WARNING  # MindSpore 2.10 needs NumPy 1
    return Finding(level, name, version, f"tested with {tested}x; {install}")


def _judge_devices(machine: Machine, devices: int) -> Iterator[Finding]:
    target, reason = machine.choice.target, machine.choice.reason
    if target == "CPU":
        yield Finding(OK, "device target", f"CPU: {reason}")
        return
    level = OK if machine.devices >= devices else ERROR
    advice = f"{devices} are requested: check that the driver is loaded and the devices are passed into the container"
    count = f"{machine.devices} device{'s' * (machine.devices != 1)}"
    yield Finding(level, "device target", f"{target}, {count}: {reason}", advice)
    for name, version in machine.drivers.items():
        yield _judge_driver(target, name, version)
    if machine.cann is not None:
        yield from _judge_cann(machine.cann, devices)


def _judge_driver(target: str, name: str, version: str) -> Finding:
    if not version:
        missing = f"MindSpore needs {name} for {target}; see its installation guide for 2.10"
        return Finding(WARNING, name, "not found", missing)
    if name == "CANN" and not is_accepted(version):
        advice = f"MindSpore 2.10 accepts {', '.join(ACCEPTED_VERSIONS)}: install one of these"
        return Finding(WARNING, name, version, advice)
    return Finding(OK, name, version)


def _judge_cann(cann: Cann, devices: int) -> Iterator[Finding]:
    """Yield whether CANN's modules and what these import are there; a simulation runs without them."""
    yield _judge_chip(cann.chip)
    absent = [name for name in cann.absent_modules if name != "hccl" or devices > 1]  # one device connects to nobody
    level = OK if not absent else WARNING if cann.is_simulated else ERROR
    found = f"{', '.join(absent)} cannot be imported" if absent else "can be imported"
    yield Finding(level, "CANN for Python", found, cann.sourcing)
    needs = cann.absent_needs
    advice = f"CANN's own modules import them: `{shlex.quote(sys.executable)} -m pip install {' '.join(needs)}`"
    found = f"{', '.join(needs)} not installed" if needs else "installed"
    yield Finding(WARNING if needs else OK, "CANN's needs", found, advice)


def _judge_chip(chip: str) -> Finding:
    if not chip:
        return Finding(OK, "chip", "npu-smi does not tell it")
    advice = (
        "use an Atlas A2 or later: on this chip MindSpore runs another, deprecated back end, and overflow is hidden"
    )
    level = WARNING if is_first_generation(name_in_cann(chip)) else OK
    return Finding(level, "chip", chip, advice)


def _judge_cores(cores: int, devices: int) -> Finding:
    level = OK if cores >= devices else ERROR
    advice = f"each of {devices} ranks needs a core of its own on the CPU, and decoding needs more: lower --devices"
    return Finding(level, "cores", f"{cores} for {devices} rank{'s' * (devices > 1)}", advice)


def _judge_memory(memory_mib: int, devices: int) -> Finding:
    level = OK if memory_mib >= devices * _LEAST_MEMORY_MIB else WARNING
    advice = f"a rank needs at least {_LEAST_MEMORY_MIB} MiB: end other programs, or lower data.device_batch_size"
    return Finding(level, "memory", f"{memory_mib:,} MiB available", advice)


def _judge_compiler(machine: Machine) -> Finding:
    """Return whether the host's kernels can be built: with every target the host crops and resizes."""
    if machine.compiler:
        return Finding(OK, "compiler", machine.compiler)
    slower = "a training step takes" if machine.choice.target == "CPU" else "cropping and resizing on the host take"
    advice = f"install a C++ compiler: without the kernels that it builds, {slower} several times as long"
    return Finding(WARNING, "compiler", machine.no_compiler, advice)


def _examine_records(records: Path, open_files: int | None) -> Iterator[Finding]:
    try:
        manifest = Manifest.from_json(read_finished(records, "records"))
    except ArtefactError as error:
        build = f"convnext-ingest build /path/to/images --out {as_word(records)}"
        command = to_type("records DATA=/path/to/images", build)
        yield Finding(ERROR, "records", str(error), f"create them with `{command}`")
        return
    rows = ", ".join(f"{split.rows:,} {name}" for name, split in manifest.splits.items())
    against = manifest.verified_against
    labels = f"verified against {against}" if against else "NOT verified"
    classes = plural(len(manifest.classes), "class")
    yield Finding(OK, "records", f"{records}: {rows} rows, {classes}, labels {labels}")
    yield judge_open_files(open_files, max(len(split.shards) for split in manifest.splits.values()))


def _examine_run(run: Path) -> Finding:
    try:
        check_begun_or_empty(run, "run")
        return judge_disk(read_disk(run))
    except (ArtefactError, OSError) as error:
        return Finding(ERROR, "run", str(error), "choose another RUN directory")
