"""What a configuration needs on a device, without the device: graphs compiled and planned by MindSpore in a child.

The child process gets an environment of its own, because MindSpore and the loader read theirs when a process starts.
"""

import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext_imagenet.base.files import write_json
from convnext_imagenet.base.protocol import read_finished
from convnext_imagenet.launch.devices import AUTO
from convnext_imagenet.launch.dry_run.dumps import dump_variables, read_kernels
from convnext_imagenet.launch.dry_run.kernels import ACLOP, HCCL, Kernel
from convnext_imagenet.launch.dry_run.simulation import simulate
from convnext_imagenet.launch.dry_run.standins import CHIP
from convnext_imagenet.records.manifest import Manifest
from convnext_imagenet.train.config.config import Config
from convnext_imagenet.train.config.schedule import divide_batch, plan_steps
from convnext_imagenet.train.errors import TrainError

_TARGETS = ("Ascend", "CPU")  # MindSpore simulates no GPU, and compiles for the CPU anywhere
_USUAL_CLASSES = 1000  # those of ImageNet, for a configuration that leaves the number to the records


@dataclass(frozen=True)
class DryRunPlan:
    """What to compile for: a device target, the number of devices of the whole run, the number of classes."""

    target: str
    devices: int
    classes: int


@dataclass(frozen=True)
class GraphReport:
    """One compiled graph: the rows that it takes, how often a training step runs it, and its kernels.

    The augmentation is compiled alone only to count it; it is a part of the graphs that a step runs.
    """

    name: str
    rows: int
    runs: int
    kernels: tuple[Kernel, ...]

    @property
    def kinds(self) -> Counter[str]:
        """Return the number of kernels of each kind."""
        return Counter(kernel.kind for kernel in self.kernels)

    @property
    def all_reduces(self) -> int:
        """Return the number of exchanges with other ranks."""
        return self.kinds[HCCL]

    @property
    def moved_bytes(self) -> int:
        """Return the bytes of the inputs and outputs of all kernels."""
        return sum(kernel.moved_bytes for kernel in self.kernels)


@dataclass(frozen=True)
class DryRunReport:
    """What one rank of a run on `devices` devices needs. Memory in bytes, as MindSpore plans it, None where unknown.

    `train_memory` is the peak of training, `memory` that of training and evaluation in one process. `libraries` says
    whose device libraries were used.
    """

    target: str
    libraries: str
    devices: int
    classes: int
    graphs: tuple[GraphReport, ...]
    train_compile_s: float
    eval_compile_s: float
    train_memory: int | None
    memory: int | None

    @property
    def training(self) -> tuple[GraphReport, ...]:
        """Return the graphs of a training step."""
        return tuple(graph for graph in self.graphs if graph.runs)

    @property
    def launches(self) -> int:
        """Return the number of kernels that a training step launches."""
        return sum(graph.runs * len(graph.kernels) for graph in self.training)

    @property
    def moved_bytes(self) -> int:
        """Return the bytes of the inputs and outputs of all kernels of a training step."""
        return sum(graph.runs * graph.moved_bytes for graph in self.training)

    @property
    def online_compilations(self) -> int:
        """Return the number of different aclop kernels, which CANN compiles when they are first used."""
        every = (kernel for graph in self.graphs for kernel in graph.kernels if kernel.kind == ACLOP)
        return len({dataclasses.replace(kernel, scope="") for kernel in every})

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, with every kernel."""
        return dataclasses.asdict(self) | {
            "mindspore": importlib.metadata.version("mindspore"),
            "launches": self.launches,
            "all_reduces": sum(graph.runs * graph.all_reduces for graph in self.training),
            "moved_bytes": self.moved_bytes,
            "online_compilations": self.online_compilations,
        }


def plan_dry_run(config: Config, records: Path | None, device_target: str, devices: int) -> DryRunPlan:
    """Return the plan of a dry run for a run with these options, checked as the run would be; "auto" means Ascend.

    The records tell the number of classes and of rows. Without them the number of classes is the configuration's, or
    1000. Raises TrainError for a target or a number of devices that cannot be simulated, ConfigError for a
    configuration that does not fit, ArtefactError for records that are not finished.
    """
    target = "Ascend" if device_target == AUTO else device_target
    if target not in _TARGETS:
        raise TrainError(
            f"--device-target {target}: a dry run is not possible, because MindSpore simulates only Ascend; "
            f"pass --device-target Ascend, or CPU"
        )
    if target == "CPU" and devices > 1:
        raise TrainError(
            f"--devices {devices}: a dry run for the CPU compiles one rank; pass --devices 1, or --device-target Ascend"
        )
    if records is None:
        divide_batch(config, devices)
        return DryRunPlan(target, devices, config.model.num_classes or _USUAL_CLASSES)
    manifest = Manifest.from_json(read_finished(records, "records"))
    rows = manifest.splits["train"].rows
    plan_steps(config, rows, devices)
    divide_batch(config, devices, rows)
    return DryRunPlan(target, devices, len(manifest.classes))


def dry_run(config: Config, plan: DryRunPlan) -> DryRunReport:
    """Return what a run of `config` needs. Raises as `dry_runs` does."""
    return dry_runs([config], plan)[0]


def dry_runs(configs: Sequence[Config], plan: DryRunPlan) -> list[DryRunReport]:
    """Return what runs of `configs` need, from one child process; only the first one's memory is its own peak.

    Raises TrainError for a graph that MindSpore does not compile, LaunchError for stand-ins that cannot be made.
    """
    variables, libraries = {}, "this machine"
    if plan.target == "Ascend":
        simulation = simulate(plan.devices)
        variables, libraries = dict(simulation.variables), f"{CHIP}, {simulation.libraries}"
    job = {**dataclasses.asdict(plan), "configs": [*map(dataclasses.asdict, configs)]}
    with tempfile.TemporaryDirectory(prefix="convnext-dry-run-", ignore_cleanup_errors=True) as name:
        runs, log = _run_child(job, variables, Path(name))
        graphs = iter(read_kernels(Path(name) / "graphs", log, plan.target))
    return [_report(run, graphs, config, plan, libraries) for run, config in zip(runs, configs, strict=True)]


def _run_child(job: dict[str, Any], variables: dict[str, str], folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the results of the child process and its standard error, which is kept in a file if the process fails."""
    write_json(folder / "job.json", job)
    paths = [str(folder / name) for name in ("job.json", "result.json")]
    command = [sys.executable, "-m", "convnext_imagenet.train.dry_run_process", *paths]
    environment = {**os.environ, **variables, **dump_variables(folder / "graphs")}
    with (folder / "log").open("wb") as log, (folder / "output").open("wb") as output:
        done = subprocess.run(command, env=environment, cwd=folder, stdout=output, stderr=log)
    text = (folder / "log").read_text(encoding="utf-8", errors="replace")
    if done.returncode:
        handle, kept = tempfile.mkstemp(prefix="convnext-dry-run-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        raise TrainError(f"the dry run's process ended with code {done.returncode}: {_reason(text)}; its log: {kept}")
    result = json.loads((folder / "result.json").read_text())
    if "error" in result:
        raise TrainError(result["error"])
    return result["runs"], text


def _reason(log: str) -> str:
    """Return the exception that ended a Python process, or the last line that is not MindSpore's log."""
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith("[")]
    raised = [line for line in lines if re.match(r"\w+(\.\w+)*(Error|Exception|Interrupt): ", line)]
    return (raised or lines or ["no message"])[-1]


def _report(
    run: dict[str, Any], graphs: Iterator[tuple[Kernel, ...]], config: Config, plan: DryRunPlan, libraries: str
) -> DryRunReport:
    rows, micro_batches = run["rows"], run["micro_batches"]
    if micro_batches == 1:
        training = [GraphReport("training step", rows, 1, next(graphs))]
    else:
        training = [
            GraphReport("micro-batch", rows, micro_batches, next(graphs)),
            GraphReport("update", 0, 1, next(graphs)),
        ]
    augmentation = GraphReport("augmentation alone", rows, 0, next(graphs))
    evaluation = GraphReport("evaluation", config.data.eval_batch_size, 0, next(graphs))
    return DryRunReport(
        target=plan.target,
        libraries=libraries,
        devices=plan.devices,
        classes=plan.classes,
        graphs=(*training, augmentation, evaluation),
        train_compile_s=run["train_compile_s"],
        eval_compile_s=run["eval_compile_s"],
        train_memory=run.get("train_memory"),
        memory=run.get("memory"),
    )
